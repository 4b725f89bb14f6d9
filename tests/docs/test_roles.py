"""The roles of `docs/operating.md`: every privilege is needed by a statement of ours, and there is no other."""

import asyncio
import re

import asyncpg
import pytest

from coordinator import schema
from coordinator.errors import Misconfigured
from coordinator.journal.postgres import SQL as JOURNAL
from coordinator.journal.sagas import SQL as SAGAS
from coordinator.operating.ledger import SQL as OPERATING
from participants.barrier.barrier import SQL as BARRIER
from participants.inbox.inbox import SQL as INBOX
from participants.isolation.semantic_lock import SQL as LOCKS
from participants.outbox.relay import SQL as RELAY
from participants.postgres.database import SQL as BRANCHES
from tests.docs.privileges import granted

OUTSIDE_THE_JOURNAL = [*BRANCHES.values(), *RELAY.values(), *INBOX.values(), *BARRIER.values(), *LOCKS.values()]
STATEMENTS = {
    ("app", "app_service"): [*JOURNAL.values(), *SAGAS.values(), *OUTSIDE_THE_JOURNAL, *OPERATING.values()],
    ("app", "app_reader"): [*OPERATING.values(), RELAY["list_dead"]],
    ("billing", "app_service"): OUTSIDE_THE_JOURNAL,
}
PARTS = {"app": ("service", "reader", "roles"), "billing": ("other-service", "other-roles")}
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
HELD = """
    SELECT p.name, 'unanimity.' || c.relname AS object FROM pg_class AS c, unnest($2::text[]) AS p (name)
    WHERE c.relnamespace = 'unanimity'::regnamespace AND c.relkind = 'r' AND has_table_privilege($1, c.oid, p.name)
"""


async def everything(guarded, database: str, role: str) -> None:
    """Ask the server whether *role* may do all that it does. (The plan of a statement is made with its rights.)"""
    connection = await asyncpg.connect(guarded.url(role, database))
    try:
        await schema.versions(connection)
        for statement in STATEMENTS[database, role]:
            await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
        if (database, role) == ("app", "app_service"):
            await _claim(connection)  # The plan of it says nothing about the sequence.
    finally:
        await connection.close()


async def _claim(connection) -> None:
    undone = connection.transaction()
    await undone.start()
    try:
        term = await connection.fetchval(JOURNAL["register"], "somebody", 10.0)
        assert await connection.fetch(JOURNAL["claim_ids"], "cluster", "unan", "somebody", 1, term)
    finally:
        await undone.rollback()


SERVING = [
    (database, privilege)
    for database, parts in PARTS.items()
    for each in parts
    for privilege in granted(each)
    if (database, privilege.role) in STATEMENTS
]
NAMES = [re.sub(r"\W+", "-", f"{database} {p.role} {p.name} {p.on}") for database, p in SERVING]


@pytest.mark.parametrize(("database", "privilege"), SERVING, ids=NAMES)
async def test_each_privilege_is_needed(guarded, database, privilege):
    """Without it the server refuses a statement that we make; with it none."""
    await guarded.execute(privilege.revoke, database=database)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await everything(guarded, database, privilege.role)
    finally:
        await guarded.execute(privilege.grant, database=database)
    await everything(guarded, database, privilege.role)


@pytest.mark.parametrize("privilege", [p for p in granted("roles") if p.role == "app_owner"], ids=lambda p: p.name)
async def test_the_owner_needs_what_it_is_granted(guarded, privilege):
    """To connect, and to make the schema in a database that has none."""
    await guarded.server.create_database("fresh")
    try:
        await guarded.execute(
            "REVOKE ALL ON DATABASE fresh FROM PUBLIC; GRANT CONNECT, CREATE ON DATABASE fresh TO app_owner"
        )
        await guarded.execute(privilege.revoke.replace("DATABASE app", "DATABASE fresh"))
        with pytest.raises((asyncpg.InsufficientPrivilegeError, Misconfigured), match=r"permission|may not"):
            await _apply(guarded.url("app_owner", "fresh"))
        await guarded.execute(privilege.grant.replace("DATABASE app", "DATABASE fresh"))
        assert await _apply(guarded.url("app_owner", "fresh"))
    finally:
        await guarded.server.drop_database("fresh")


async def _apply(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return await schema.apply(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize(("database", "role"), STATEMENTS)
async def test_there_is_no_other_privilege(guarded, database, role):
    """Neither by another way, nor on a table that the page has forgotten."""
    connection = await asyncpg.connect(guarded.url(database=database))
    held = {tuple(row) for row in await connection.fetch(HELD, role, list(TABLE_PRIVILEGES))}
    await connection.close()
    assert held == {(p.name, p.on) for where, p in SERVING if (where, p.role) == (database, role) and not p.kind}
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await guarded.execute("CREATE TABLE unanimity.mine ()", role=role, database=database)


async def test_a_schema_that_is_current_is_not_touched_and_one_that_is_behind_names_the_remedy(guarded):
    """A service starts without the right to create; where there is something to create it says who must."""
    service = await asyncpg.connect(guarded.url("app_service"))
    try:
        assert await schema.apply(service) == []
        await guarded.execute("DELETE FROM unanimity.schema_versions WHERE component = 'relay'", role="app_owner")
        with pytest.raises(Misconfigured, match="schema apply"):
            await schema.apply(service)
    finally:
        await guarded.execute("INSERT INTO unanimity.schema_versions VALUES ('relay', 1)", role="app_owner")
        await service.close()


async def test_two_owners_apply_at_once(guarded):
    """One does it, and the other finds it done."""
    await guarded.server.create_database("fresh")
    try:
        await guarded.execute("GRANT CREATE ON DATABASE fresh TO app_owner")
        taken = await asyncio.gather(*(_apply(guarded.url("app_owner", "fresh")) for _ in range(4)))
        assert sorted(map(bool, taken)) == [False, False, False, True]
    finally:
        await guarded.server.drop_database("fresh")
