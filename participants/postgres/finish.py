"""The second phase of a prepared branch, from any process, however often, and the truth about how it ended.

PostgreSQL says "does not exist" of a prepared transaction that was committed, of one that was rolled back, and of one
that never was. So the branch left a marker, and its transaction's id was recorded, before it was prepared.
"""

from collections.abc import Mapping, Sequence

import asyncpg

from coordinator.errors import InDoubt, Misconfigured, Unavailable
from coordinator.faults.points import boundary
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Prepared
from participants.postgres.connection import Backend, Connection
from participants.postgres.database import SQL, Database
from participants.postgres.history import history_in, history_of
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
        except asyncpg.ReadOnlySQLTransactionError as error:
            raise Unavailable(f"{database.name} is a standby now: {error}", participant=database.name) from error
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
    ending = wanted if there else await _how_it_ended(database, prepared, wanted)
    database.slots.leave(prepared.gid)
    return ending


async def lost(database: Database, history: Evidence, gids: Sequence[Gid]) -> Sequence[Gid]:
    """Those that are neither committed nor prepared in *history*. See `ports.FollowsHistory`."""

    async def look(connection: Connection) -> Sequence[Gid]:
        if (await history_of(connection)).evidence != history:
            raise Unavailable(f"{database.name} follows another history by now", participant=database.name)
        found = await _found(connection, database.name, gids)
        return [gid for gid in gids if gid not in found]

    return await boundary("pg.outcome", lambda: database.connections.ask(look), branch=database.name)


async def _found(connection: Connection, branch: BranchName, gids: Sequence[Gid]) -> Mapping[Gid, Ending | None]:
    """Of each branch that left something: COMMITTED by its marker, or None while it is prepared.

    In this order: a branch that is committed between the two questions has left its marker by the second.
    """
    by_id = {prepared_id(gid, branch): gid for gid in gids}
    prepared = await connection.fetch(SQL["prepared"], list(by_id))
    marked = await connection.fetch(SQL["marked"], branch, list(gids))
    return {by_id[row["gid"]]: None for row in prepared} | {Gid(row["gid"]): Ending.COMMITTED for row in marked}


async def _how_it_ended(database: Database, prepared: Prepared, wanted: Ending) -> Ending:
    gid, branch, evidence = prepared.gid, prepared.branch, prepared.evidence

    async def look(connection: Connection) -> Ending:
        found = await _found(connection, branch, [gid])
        if gid in found:
            if ending := found[gid]:
                return ending
            raise InDoubt(f"{gid} is prepared in {branch} after all; ask again", gid=gid)
        if not evidence:
            return Ending.ABORTED  # It never voted, so nobody ever decided to commit it.
        here, there = await history_of(connection), history_in(evidence)
        if not here.known or not there.known:
            return Ending.HAZARD  # We may not read the histories, so nobody can tell what an id means.
        if here != there:
            # The marker would say that it was committed, here or before this history began.
            return Ending.LOST if wanted is Ending.COMMITTED else Ending.ABORTED
        return await _by_transaction_id(connection, prepared)

    return await boundary("pg.outcome", lambda: database.connections.ask(look), gid=gid, branch=branch)


async def _by_transaction_id(connection: Connection, prepared: Prepared) -> Ending:
    """The status of the transaction's id, which means something in the history that it was given in, and only there."""
    try:
        status = await connection.fetchval(SQL["status"], prepared.evidence.get("xid"))
    except asyncpg.InvalidParameterValueError:
        return Ending.HAZARD  # The id lies in the future, so it is not the same history.
    match status:
        case "committed":
            return Ending.COMMITTED
        case "aborted":
            return Ending.ABORTED
        case "in progress":
            raise InDoubt(f"{prepared.gid} is still under way in {prepared.branch}; ask again", gid=prepared.gid)
        case _:
            return Ending.HAZARD
