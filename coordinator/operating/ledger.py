"""The journal's database as operators read it: one connection that cannot write, and rows as plain data."""

import json
import math
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from coordinator import limits
from coordinator.alerts import HEURISTIC_OUTCOMES
from coordinator.errors import Misconfigured, Refused, Unavailable
from coordinator.schema import queries, versions

SQL = queries(Path(__file__).with_name("queries.sql"))
STATES = ("unfinished", "finished", "parked", "alerted", "torn", "all")
RATES_OVER_S = 5.0
"""Seconds over which `Ledger.pulse` counts what was finished."""

Row = dict[str, Any]


class Ledger:
    """Questions about one journal. Times are timezone-aware, ages and leases are in seconds."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def transactions(self, state: str = "unfinished", *, name: str = "", limit: int = 50) -> list[Row]:
        """Transactions in *state* (one of `STATES`), of all names or of *name*."""
        if state not in STATES:
            raise Refused(f"{state!r} is no state to list by; there are {', '.join(STATES)}")
        return await self._rows("transactions", state, name, limit, sorted(HEURISTIC_OUTCOMES))

    async def transaction(self, gid: str) -> Row:
        """All about one transaction: its row, with `attempts`, `alerts`, `audit` and `messages`. Raises `Refused`."""
        rows = await self._rows("transaction", gid)
        if not rows:
            raise Refused(
                f"the journal has no record of {gid}: it was rolled back before it was recorded, it was finished and "
                "forgotten, or it never was",
                gid=gid,
            )
        about = {name: await self._rows(name, gid) for name in ("attempts", "alerts", "audit", "messages")}
        return rows[0] | about

    async def sagas(self, ended: bool, both: bool, *, name: str = "", limit: int | None = None) -> list[Row]:
        """Sagas that have ended or have not, or both; with all that happened to each."""
        return await self._rows("sagas", ended, both, name, "", limit)

    async def saga(self, gid: str) -> Row:
        """All about one saga: with `times`, `signals`, `alerts` and `audit`. Raises `Refused` where there is none."""
        rows = await self._rows("sagas", False, True, "", gid, 1)
        if not rows:
            raise Refused(f"there is no saga {gid}", gid=gid)
        times = [row["at"] for row in await self._rows("saga_times", gid)]
        about = {name: await self._rows(name, gid) for name in ("alerts", "audit")}
        return rows[0] | {"times": times, "signals": await self._rows("saga_signals", gid)} | about

    async def stranded(self) -> list[Row]:
        """Definitions that unfinished sagas are pinned to, and that no live process has."""
        return await self._rows("stranded")

    async def alerts(self, *, resolved: bool = False) -> list[Row]:
        """Every alert that is open, the oldest first; and those that were *resolved*, with who did so and how."""
        return await self._rows("all_alerts", resolved)

    async def undecided(self, gids: Collection[str] = ()) -> list[Row]:
        """What the journal says of *gids*, and of every intent and parked transaction besides."""
        return await self._rows("unfinished", list(gids))

    async def prefix(self) -> str:
        """What all ids of this journal begin with, where no setting says otherwise."""
        return str((await self._rows("prefix"))[0]["prefix"])

    async def owners(self) -> list[Row]:
        """Every process that is or was an owner and is not forgotten yet."""
        return await self._rows("owners")

    async def ids(self) -> list[Row]:
        """Every transactional id."""
        return await self._rows("ids")

    async def shards(self) -> list[Row]:
        """The relays, and the shards of this database's outbox that each delivers."""
        return await self._rows("shards")

    async def backlog(self) -> Row:
        """What stands in this database's outbox, and how old the oldest row is that could be delivered now."""
        return (await self._rows("backlog"))[0]

    async def pulse(self) -> Row:
        """Everything at a glance."""
        return (await self._rows("pulse", RATES_OVER_S))[0]

    async def _rows(self, query: str, *arguments: object) -> list[Row]:
        try:
            return [_plain(row) for row in await self._connection.fetch(SQL[query], *arguments)]
        except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError, TimeoutError) as failure:
            raise Unavailable(f"the journal's database does not answer: {failure!r}") from failure
        except asyncpg.InsufficientPrivilegeError as failure:
            raise Misconfigured(f"this role may not read the journal: {failure}") from failure


@asynccontextmanager
async def connected(url: str, *, read_only: bool = True) -> AsyncIterator[Any]:
    """A connection to the database at *url*. Raises `Unavailable` or `Misconfigured` that names the remedy."""
    settings = {"application_name": "coordinator (operator)"}
    if read_only:
        settings["default_transaction_read_only"] = "on"
    try:
        connection = await asyncpg.connect(
            url, timeout=limits.PARTICIPANT_CALL_S, command_timeout=limits.PARTICIPANT_CALL_S, server_settings=settings
        )
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as failure:
        raise Misconfigured(f"the database refuses us: {failure}") from failure
    except asyncpg.exceptions.ClientConfigurationError as failure:
        raise Misconfigured(f"that is no database URL (postgresql://user@host:5432/database): {failure}") from failure
    except (asyncpg.PostgresError, OSError, TimeoutError) as failure:
        raise Unavailable(f"the database does not answer: {failure!r}") from failure
    try:
        yield connection
    finally:
        await connection.close(timeout=1)


@asynccontextmanager
async def open_ledger(url: str, *components: str) -> AsyncIterator[Ledger]:
    """The ledger of the database at *url*, in which the tables of *components* (of the journal without) are needed.

    Raises `Misconfigured` where they are older or newer than this code.
    """
    async with connected(url) as connection:
        for version in await versions(connection, *(components or ("journal", "outbox"))):
            if version.present != version.known:
                remedy = "run `coordinator schema apply`" if version.present < version.known else "upgrade this command"
                raise Misconfigured(
                    f"the tables of {version.component} are {version.state} (at version {version.present}, known are "
                    f"{version.known}): {remedy}"
                )
        yield Ledger(connection)


def _plain(row: Mapping[str, Any]) -> Row:
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    """A lease that was given up ended "infinitely" long ago, of which JSON and people know nothing: it is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return json.loads(value) if name in _JSON and value is not None else value


_JSON = frozenset({"branches", "endings", "events"})
