"""The schema as it is written and the migrations that lead to it are the same thing."""

import asyncio
import re

import asyncpg
import pytest

from coordinator.errors import Misconfigured
from coordinator.schema import COMPONENTS, DIRECTORY, apply, migrations

CATALOGUE = """
    SELECT 'column' AS kind, table_name || '.' || column_name AS name,
           data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '') AS detail
    FROM information_schema.columns WHERE table_schema = 'unanimity' AND table_name <> 'schema_versions'
    UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'unanimity' AND tablename <> 'schema_versions'
    UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'unanimity'::regnamespace AND conrelid <> 'unanimity.schema_versions'::regclass
    UNION ALL SELECT 'sequence', sequencename, '' FROM pg_sequences WHERE schemaname = 'unanimity'
    ORDER BY 1, 2, 3
"""


async def catalogue(url, *statements):
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
        return [tuple(row) for row in await connection.fetch(CATALOGUE)]
    finally:
        await connection.close()


async def test_all_migrations_lead_to_the_schema(create_database):
    """One database is built from each, and the catalogues are compared."""
    migrated, written = await create_database(), await create_database()
    connection = await asyncpg.connect(migrated)
    await apply(connection)
    await connection.close()
    present = [(DIRECTORY / f"{component}.sql").read_text() for component in COMPONENTS]
    versions = "CREATE SCHEMA unanimity; CREATE TABLE unanimity.schema_versions (component text)"
    assert await catalogue(migrated) == await catalogue(written, versions, *present)


async def test_applying_again_and_at_once_changes_nothing(database):
    """Several replicas start at the same time."""
    connections = [await asyncpg.connect(database) for _ in range(4)]
    await asyncio.gather(*(apply(connection) for connection in connections))
    await apply(connections[0])
    for connection in connections:
        await connection.close()


async def test_a_newer_schema_is_refused(database):
    """Old code does not run on tables that it does not know."""
    connection = await asyncpg.connect(database)
    await apply(connection, "journal")
    await connection.execute("INSERT INTO unanimity.schema_versions VALUES ('journal', 99)")
    with pytest.raises(Misconfigured, match="upgrade the code"):
        await apply(connection, "journal")
    await connection.close()


@pytest.mark.parametrize("component", COMPONENTS)
def test_migrations_are_numbered_without_gaps(component):
    """0001, 0002, ..."""
    assert list(migrations(component)) == list(range(1, len(migrations(component)) + 1))


ADDS = re.compile(
    r"CREATE (TABLE|INDEX|SEQUENCE) .*"
    r"|INSERT INTO .*"
    r"|DROP INDEX .*"
    r"|ALTER TABLE \S+ ADD COLUMN (?!.*NOT NULL(?!.*DEFAULT)).*",
    re.DOTALL,
)


@pytest.mark.parametrize("component", COMPONENTS)
def test_migrations_only_add(component):
    """So the version before works on with the new tables, while services are replaced one after the other.

    (An index may also go: no statement depends on one. A column that is added may be left out by who knows it not.)
    """
    for number, step in migrations(component).items():
        text = re.sub(r"--.*", "", step)
        for statement in filter(None, (part.strip() for part in text.split(";"))):
            flat = " ".join(statement.split())
            assert number == 1 or ADDS.fullmatch(flat), flat


def test_what_takes_away_is_noticed():
    """Neither of these only adds."""
    assert not ADDS.fullmatch("ALTER TABLE unanimity.outbox DROP COLUMN key")
    assert not ADDS.fullmatch("ALTER TABLE unanimity.outbox ADD COLUMN key bytea NOT NULL")
    assert ADDS.fullmatch("ALTER TABLE unanimity.outbox ADD COLUMN key bytea NOT NULL DEFAULT ''")


@pytest.mark.parametrize(
    ("use", "prefix"),
    [
        ("INSERT INTO unanimity.owners (owner, lease_until) VALUES ('a', now())", "unan"),
        ("SELECT nextval('unanimity.transactional_id_numbers')", "unan"),
        ("SELECT 1", "unan[0-9a-f]{8}"),
    ],
)
async def test_a_journal_in_use_keeps_what_its_ids_begin_with(database, use, prefix):
    """What it left prepared under it is found again; a new journal makes up its own."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE SCHEMA unanimity")
    steps = migrations("journal")
    for number in range(1, 8):
        await connection.execute(steps[number])
    await connection.execute(use)
    await connection.execute(steps[8])
    assert re.fullmatch(prefix, await connection.fetchval("SELECT prefix FROM unanimity.prefix"))
    await connection.close()
