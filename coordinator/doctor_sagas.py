"""Sagas that no process can go on with: they are pinned to a definition that none has."""

from coordinator.doctor import Finding, Verdict
from coordinator.operating.ledger import Ledger, connected
from coordinator.schema import versions

_REMEDY = (
    "run a process with this definition until they have ended; `coordinator sagas list --state stranded` names them"
)


async def examine_sagas(url: str) -> list[Finding]:
    """One finding for each such definition in the database at *url*; none where it holds no sagas."""
    async with connected(url) as connection:
        (version,) = await versions(connection, "sagas")
        if version.present != version.known:
            return []
        return [
            Finding(
                "postgres",
                f"sagas of {row['definition']}",
                f"{row['sagas']} that no live process can go on with, the oldest for {row['oldest_s']:.0f} s",
                Verdict.NOTE,
                _REMEDY,
            )
            for row in await Ledger(connection).stranded()
        ]
