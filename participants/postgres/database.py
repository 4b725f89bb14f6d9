"""Which database this is, what the promise needs of it, and what this process holds of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.errors import Misconfigured
from coordinator.protocol.model import BranchName
from coordinator.schema import queries
from participants.postgres.connection import Connection
from participants.postgres.connections import Connections
from participants.postgres.history import history_of
from participants.postgres.slots import Slots

SQL = queries(Path(__file__).with_name("queries.sql"))

_VERSION_MIN = 140_000  # pg_terminate_backend with a timeout.


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """*system* is the server's identifier; empty where the role may not read it."""

    database: int
    slots: int
    system: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """An opened database: what sessions and second phases need of it."""

    name: BranchName
    server: Server
    connections: Connections
    slots: Slots


async def examine(connection: Connection, name: BranchName) -> Server:
    """Look at everything that the promise rests on. Raises `Misconfigured` with the remedy."""
    row: Any = await connection.fetchrow(SQL["server"])
    problem = _problem(row, connection.get_server_pid())
    if problem:
        raise Misconfigured(f"{name} {problem}", participant=name)
    history = await history_of(connection)
    return Server(database=row["database"], slots=row["slots"], system=history.system)


def _problem(row: Any, server_pid: int) -> str:
    if row["version"] < _VERSION_MIN:
        return "is older than PostgreSQL 14: upgrade it"
    if row["standby"]:
        return "is a standby: transactions begin on the primary, so give its URL"
    if row["backend"] != server_pid:
        return "is reached through a pooler, where a late PREPARE cannot be stopped: give the server's own URL"
    if row["synchronous_commit"] == "off":
        return "acknowledges commits that are not durable: set synchronous_commit = on for this role"
    if row["ends_prepared_after"] != "0":
        return "rolls prepared transactions back by itself: set prepared_orphaned_transaction_timeout = 0"
    return ""
