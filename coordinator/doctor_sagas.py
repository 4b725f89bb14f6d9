"""Sagas that no process can go on with: the definition that they are pinned to is nowhere, or cannot read them."""

from coordinator.alerts import EXPLANATIONS, AlertKind
from coordinator.doctor import Finding, Verdict
from coordinator.operating.ledger import Ledger, connected
from coordinator.schema import versions

_REMEDY = (
    "run a process with this definition until they have ended; `coordinator sagas list --state stranded` names them"
)
_RESOLVE = EXPLANATIONS[AlertKind.UNREADABLE_SAGA].do


async def examine_sagas(url: str) -> list[Finding]:
    """What there is of them in the database at *url*; nothing where it holds no sagas."""
    async with connected(url) as connection:
        (version,) = await versions(connection, "sagas")
        if version.present != version.known:
            return []
        ledger = Ledger(connection)
        unreadable = [row for row in await ledger.alerts() if row["kind"] == AlertKind.UNREADABLE_SAGA]
        return [
            Finding(
                "postgres",
                f"sagas of {row['definition']}",
                f"{row['sagas']} that no live process can go on with, the oldest for {row['oldest_s']:.0f} s",
                Verdict.NOTE,
                _REMEDY,
            )
            for row in await ledger.stranded()
        ] + [Finding("postgres", f"saga {row['gid']}", row["detail"], Verdict.NOTE, _RESOLVE) for row in unreadable]
