"""The second phase of a prepared branch, from any process, however often, and the truth about how it ended.

PostgreSQL says "does not exist" of a prepared transaction that was committed, of one that was rolled back, and of one
that never was. So the branch left a marker, and its transaction's id was recorded, before it was prepared.
"""

from typing import Any

import asyncpg

from coordinator.errors import InDoubt, Misconfigured, Unavailable
from coordinator.faults.points import boundary
from coordinator.protocol.model import Ending, Gid, Prepared
from participants.postgres.connection import Backend, Connection
from participants.postgres.database import SQL, Database
from participants.postgres.literals import commit_prepared, prepared_id, rollback_prepared


async def commit(database: Database, prepared: Prepared) -> Ending:
    """COMMIT PREPARED. See `ports.Participant`."""
    command = commit_prepared(prepared_id(prepared.gid, prepared.branch))
    return await _finish(database, "pg.commit_prepared", command, prepared, Ending.COMMITTED)


async def abort(database: Database, prepared: Prepared) -> Ending:
    """ROLLBACK PREPARED. See `ports.Participant`."""
    command = rollback_prepared(prepared_id(prepared.gid, prepared.branch))
    return await _finish(database, "pg.rollback_prepared", command, prepared, Ending.ABORTED)


async def stop_late_prepare(database: Database, backend: Backend, gid: Gid) -> None:
    """End the backend that may still carry out a PREPARE, and roll back what it left. Raises while that is unsure."""
    await boundary(
        "pg.terminate_backend", lambda: database.connections.end_backend(backend), gid=gid, branch=database.name
    )
    ending = await abort(database, Prepared(gid=gid, branch=database.name))
    assert ending is Ending.ABORTED, "nobody decides to commit a branch that has not voted"


async def _finish(database: Database, point: str, command: str, prepared: Prepared, wanted: Ending) -> Ending:
    async def carry_out(connection: Connection) -> bool:
        """Whether the prepared transaction was there."""
        try:
            await connection.execute(command)
        except asyncpg.UndefinedObjectError:
            return False
        except asyncpg.ObjectNotInPrerequisiteStateError as error:
            raise Unavailable(f"{prepared.gid} is being finished by another process: {error}") from error
        except (asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError) as error:
            raise Misconfigured(
                f"{database.name}: {error}. A prepared transaction is finished in the database, and by the role, in "
                "which it was prepared (or by a superuser): give all replicas the same URL",
                participant=database.name,
            ) from error
        return True

    there = await boundary(point, lambda: database.connections.ask(carry_out), gid=prepared.gid, branch=prepared.branch)
    ending = wanted if there else await _how_it_ended(database, prepared)
    database.slots.leave(prepared.gid)
    return ending


async def _how_it_ended(database: Database, prepared: Prepared) -> Ending:
    identifier = prepared_id(prepared.gid, prepared.branch)

    async def look(connection: Connection) -> Any:
        return await connection.fetchrow(SQL["outcome"], prepared.gid, prepared.branch, identifier)

    row = await boundary("pg.outcome", lambda: database.connections.ask(look), gid=prepared.gid, branch=prepared.branch)
    if row["marked"]:
        return Ending.COMMITTED
    if row["prepared"]:
        raise InDoubt(f"{identifier} is prepared after all; ask again", gid=prepared.gid)
    if not prepared.evidence:
        return Ending.ABORTED  # It never voted, so nobody ever decided to commit it.
    return await _by_transaction_id(database, prepared)


async def _by_transaction_id(database: Database, prepared: Prepared) -> Ending:
    """The status of the transaction's id, which means something in the history that it was given in, and only there."""
    evidence = prepared.evidence

    async def look(connection: Connection) -> str | None:
        try:
            status: str | None = await connection.fetchval(
                SQL["status"], evidence.get("xid"), evidence.get("system"), evidence.get("timeline")
            )
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError):
            return None  # We may not read the history; or the id lies in its future, so it is not the same one.
        return status

    match await database.connections.ask(look):
        case "committed":
            return Ending.COMMITTED
        case "aborted":
            return Ending.ABORTED
        case "in progress":
            raise InDoubt(f"{prepared.gid} is still under way in {database.name}; ask again", gid=prepared.gid)
        case _:
            return Ending.HAZARD
