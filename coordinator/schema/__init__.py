"""The tables of each component, and the migrations that lead to them.

`<component>.sql` is the schema as it is now, for reading and for a test that compares; `migrations/<component>/` holds
the numbered steps, of which `apply` runs those that are missing.
"""

import re
from pathlib import Path
from typing import Any

from coordinator.errors import Misconfigured

COMPONENTS = ("journal", "outbox", "branches", "inbox", "relay")
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


async def apply(connection: Any, *components: str) -> None:
    """Bring *components* (all without a name) up to date on an asyncpg *connection*, outside of a transaction.

    Idempotent, and safe when several processes start at once. Raises `Misconfigured` where the schema is newer than
    this version of the code, or where the role may not create it.
    """
    if not await _behind(connection, components or COMPONENTS):
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(_VERSIONS)
        for component in components or COMPONENTS:
            await _bring_up(connection, component)


async def _behind(connection: Any, components: tuple[str, ...]) -> bool:
    """Whether anything is to be done: a role without the right to create must be able to start, too."""
    if await connection.fetchval("SELECT to_regclass('unanimity.schema_versions')") is None:
        return True
    rows = await connection.fetch("SELECT component, max(version) AS version FROM unanimity.schema_versions GROUP BY 1")
    present = {row["component"]: row["version"] for row in rows}
    return any(present.get(component) != max(migrations(component)) for component in components)


async def _bring_up(connection: Any, component: str) -> None:
    query = "SELECT coalesce(max(version), 0) FROM unanimity.schema_versions WHERE component = $1"
    present = await connection.fetchval(query, component)
    steps = migrations(component)
    if present > max(steps):
        raise Misconfigured(
            f"the tables of {component} are at version {present}, and this code knows {max(steps)}: upgrade the code"
        )
    for number, step in steps.items():
        if number > present:
            await connection.execute(step)
            await connection.execute("INSERT INTO unanimity.schema_versions VALUES ($1, $2)", component, number)


def queries(path: Path) -> dict[str, str]:
    """The named statements of a `.sql` file: each begins with a line `-- name --`. Comments are for its readers."""
    parts = re.split(r"^-- (\w+) --\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    statements = (re.sub(r"^ *--.*\n", "", text, flags=re.MULTILINE).strip() for text in parts[2::2])
    return dict(zip(parts[1::2], statements, strict=True))
