"""A primary and its asynchronous standby, cut off and promoted at will, behind one address."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.dev.downloads import cache_directory
from coordinator.dev.postgres import LocalPostgres
from tests.integration.postgres.branches import until
from tests.integration.postgres.conftest import query
from tests.integration.postgres.relay import Relay


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers. *address* leads to the one that is the primary, *wire* is what the standby hears it through."""

    primary: LocalPostgres
    standby: LocalPostgres
    address: Relay
    wire: Relay

    @property
    def url(self) -> str:
        """Whichever is the primary."""
        return f"postgresql://postgres@127.0.0.1:{self.address.port}/postgres"

    async def cut_off(self) -> None:
        """The standby has heard of everything until now, and hears nothing more."""
        position = await query(self.primary.url, "SELECT pg_current_wal_flush_lsn()::text")

        async def caught_up() -> bool:
            reached = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
            return bool(await query(self.standby.url, reached, position))

        await until(caught_up)
        await self.wire.lead_to(None)

    async def fail_over(self) -> None:
        """The primary dies, the standby is promoted, and the address leads to it."""
        await self.primary.kill()
        await self.standby.promote()
        await self.address.lead_to(self.standby.port)


@asynccontextmanager
async def paired(primary: LocalPostgres, directory: Path) -> AsyncIterator[Pair]:
    """A standby of *primary*, which has the table `business`; it ends with the context."""
    standby = LocalPostgres(directory / f"standby-of-{primary.port}", cache=cache_directory())
    async with Relay(primary.port) as address, Relay(primary.port) as wire:
        await query(primary.url, "CREATE TABLE business (n int)")
        await standby.follow(f"postgresql://postgres@127.0.0.1:{wire.port}/postgres")
        yield Pair(primary, standby, address, wire)
        await standby.kill()
