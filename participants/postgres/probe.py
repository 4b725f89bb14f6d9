"""What PostgreSQL says about a branch, in words for people. Nothing is changed by asking."""

from coordinator.protocol.model import Prepared
from participants.postgres.connection import Connection
from participants.postgres.database import SQL, Database
from participants.postgres.literals import prepared_id


async def probe(database: Database, prepared: Prepared) -> str:
    """Whether it is prepared, committed, or not there. Raises `Unavailable` or `InDoubt` without an answer."""
    identifier = prepared_id(prepared.gid, prepared.branch)

    async def look(connection: Connection) -> str:
        if await connection.fetch(SQL["prepared"], [identifier]):
            return f"prepared, as {identifier}"
        if await connection.fetch(SQL["marked"], prepared.branch, [prepared.gid]):
            return "committed: its marker is there"
        return "not prepared, and no marker of a commit is there"

    return await database.connections.ask(look)
