"""The tables of each component, and the migrations that lead to them.

`<component>.sql` is the schema as it is now, for reading and for a test that compares; `migrations/<component>/` holds
the numbered steps, of which `apply` runs those that are missing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from coordinator.errors import Misconfigured

COMPONENTS = ("journal", "outbox", "branches", "inbox", "relay", "sagas", "barrier", "locks")
OF_A_JOURNAL = ("journal", "outbox", "sagas")
"""What every coordinator needs in its journal's database; the others are made by what uses them, where it does."""
DIRECTORY = Path(__file__).parent

_LOCK = 0x756E616E  # "unan", one lock for all components: migrations are rare and short.
_VERSIONS = """
    CREATE SCHEMA IF NOT EXISTS unanimity;
    CREATE TABLE IF NOT EXISTS unanimity.schema_versions (
        component  text NOT NULL,
        version    integer NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (component, version)
    );
"""


def migrations(component: str) -> dict[int, str]:
    """The SQL of every step of *component*, by number."""
    steps = sorted((DIRECTORY / "migrations" / component).glob("*.sql"))
    return {int(path.name.split("_")[0]): path.read_text(encoding="utf-8") for path in steps}


@dataclass(frozen=True, slots=True)
class Version:
    """How far one component's tables are, and how far this code can bring them. 0 is: not there."""

    component: str
    present: int
    known: int

    @property
    def state(self) -> str:
        """In a word: current, behind, newer, or missing."""
        if self.present == self.known:
            return "current"
        return "missing" if not self.present else "behind" if self.present < self.known else "newer"


async def versions(connection: Any, *components: str) -> list[Version]:
    """How far each of *components* (all without a name) is, by an asyncpg *connection*; nothing is changed."""
    present: dict[str, int] = {}
    if await connection.fetchval("SELECT to_regclass('unanimity.schema_versions')") is not None:
        rows = await connection.fetch(
            "SELECT component, max(version) AS version FROM unanimity.schema_versions GROUP BY 1"
        )
        present = {row["component"]: row["version"] for row in rows}
    return [Version(name, present.get(name, 0), max(migrations(name))) for name in components or COMPONENTS]


async def apply(connection: Any, *components: str) -> list[str]:
    """Bring *components* (all without a name) up to date on an asyncpg *connection*, outside of a transaction.

    Returns the steps that were taken. Idempotent, and safe when several processes start at once: an advisory lock lets
    one of them do it. Where nothing is to be done, no right to create anything is needed. Raises `Misconfigured` where
    the schema is newer than this version of the code, or where the role may not create it.
    """
    found = await versions(connection, *components)
    for version in found:
        _refuse_newer(version)
    if all(version.present == version.known for version in found):
        return []
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(_VERSIONS)
            # Asked again under the lock: another process may have done it by now.
            return [
                step
                for version in await versions(connection, *components)
                for step in await _bring_up(connection, version)
            ]
    except asyncpg.InsufficientPrivilegeError as error:
        behind = ", ".join(version.component for version in found if version.present < version.known)
        raise Misconfigured(
            f"the tables of {behind} are to be made or migrated, and this role may not do so ({error}): run "
            "`coordinator schema apply` as the role that owns them"
        ) from error


async def _bring_up(connection: Any, version: Version) -> list[str]:
    _refuse_newer(version)
    taken = []
    for number, step in migrations(version.component).items():
        if number > version.present:
            await connection.execute(step)
            await connection.execute("INSERT INTO unanimity.schema_versions VALUES ($1, $2)", version.component, number)
            taken.append(f"{version.component} {number}")
    return taken


def _refuse_newer(version: Version) -> None:
    if version.present > version.known:
        raise Misconfigured(
            f"the tables of {version.component} are at version {version.present}, and this code knows "
            f"{version.known}: upgrade the code"
        )


def queries(path: Path) -> dict[str, str]:
    """The named statements of a `.sql` file: each begins with a line `-- name --`. Comments are for its readers."""
    parts = re.split(r"^-- (\w+) --\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    statements = (re.sub(r"^ *--.*\n", "", text, flags=re.MULTILINE).strip() for text in parts[2::2])
    return dict(zip(parts[1::2], statements, strict=True))
