"""The roles of `docs/operating.md`: every privilege is needed by a statement of ours, and there is no other."""

import asyncio
import re

import asyncpg
import pytest

from coordinator import schema
from coordinator.errors import Misconfigured
from coordinator.journal.postgres import SQL as JOURNAL
from coordinator.operating.ledger import SQL as OPERATING
from participants.inbox.inbox import SQL as INBOX
from participants.outbox.relay import SQL as RELAY
from participants.postgres.database import SQL as BRANCHES
from tests.docs.privileges import Privilege, granted

STATEMENTS = {
    "app_service": [*JOURNAL.values(), *BRANCHES.values(), *RELAY.values(), *INBOX.values(), *OPERATING.values()],
    "app_reader": [*OPERATING.values(), RELAY["list_dead"]],
}
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
HELD = """
    SELECT p.name, 'unanimity.' || c.relname AS object FROM pg_class AS c, unnest($2::text[]) AS p (name)
    WHERE c.relnamespace = 'unanimity'::regnamespace AND c.relkind = 'r' AND has_table_privilege($1, c.oid, p.name)
"""


async def everything(url: str, role: str) -> None:
    """Ask the server whether *role* may do all that it does. (The plan of a statement is made with its rights.)"""
    connection = await asyncpg.connect(url)
    try:
        await schema.versions(connection)
        for statement in STATEMENTS[role]:
            await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
        if role == "app_service":
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


def name(privilege: Privilege) -> str:
    return re.sub(r"\W+", "-", f"{privilege.role} {privilege.name} {privilege.on}")


SERVING = [p for p in [*granted("service"), *granted("reader"), *granted("roles")] if p.role in STATEMENTS]


@pytest.mark.parametrize("privilege", SERVING, ids=name)
async def test_each_privilege_is_needed(guarded, privilege):
    """Without it the server refuses a statement that we make; with it none."""
    url = guarded.url(privilege.role)
    await guarded.execute(privilege.revoke)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await everything(url, privilege.role)
    finally:
        await guarded.execute(privilege.grant)
    await everything(url, privilege.role)


@pytest.mark.parametrize("privilege", [p for p in granted("roles") if p.role == "app_owner"], ids=name)
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


@pytest.mark.parametrize("role", STATEMENTS)
async def test_there_is_no_other_privilege(guarded, role):
    """Neither by another way, nor on a table that the page has forgotten."""
    connection = await asyncpg.connect(guarded.url())
    held = {tuple(row) for row in await connection.fetch(HELD, role, list(TABLE_PRIVILEGES))}
    await connection.close()
    assert held == {(p.name, p.on) for p in SERVING if p.role == role and not p.kind}
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await guarded.execute("CREATE TABLE unanimity.mine ()", role=role)


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
