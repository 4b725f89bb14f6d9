"""What the server is really told, read in its own log: nothing for ids that are not ours, and no statement too many."""

import asyncio
import os
import random
import re
from datetime import UTC, datetime

import asyncpg
import pytest

from coordinator.errors import InvalidDefinition
from coordinator.gids import new_gid
from coordinator.protocol.model import BranchName, Ending, Gid, Prepared, Recipe
from participants import Postgres
from tests.integration.postgres.branches import begin, commit_with, prepared
from tests.integration.postgres.conftest import query

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
PAYLOADS = [
    "'",
    "''",
    "\\'",
    "'; DROP TABLE business; --",
    "' OR '1'='1",
    "x'; COMMIT PREPARED 'y",
    "$$; DROP TABLE business; $$",
    "\x00",
    "\n",
    "\r\n--",
    "\u2019",
    "\u02bc",
    "\uff07",
    "Ⅷ",
    "%s",
    "{0}",
    "/*",
    ";",
    " ",
    "\t",
]


def hostile_ids() -> list[str]:
    """200 ids that are none: payloads in each place of an id, and ids that are nearly right."""
    nearly = [
        "",
        ":",
        ULID,
        f"unan:{ULID}:db",
        f"unan:{ULID}\n",
        f"unan:{ULID} ",
        f"UNAN:{ULID}",
        f"una:{ULID}",
        f"unanunanunanu:{ULID}",
        f"unan:{ULID[:-1]}",
        f"unan:{ULID}0",
        f"unan:{ULID.lower()}",
        f"unan:{ULID[:-1]}I",
        f"unan:{ULID[:-1]}O",
        f"unan:{'٣' * 26}",
        "unan:" + "0" * 300,
        f"unan::{ULID}",
        f"unan;{ULID}",
    ]
    placed = [
        place.replace("?", payload)
        for payload in PAYLOADS
        for place in ("?", f"unan?:{ULID}", f"unan:?{ULID}", f"unan:{ULID}?", f"?:{ULID}", f"unan:{ULID[:-1]}?")
    ]
    chance = random.Random(4)
    alphabet = "'\\;-:unaULID0123 \n$"
    found = dict.fromkeys(nearly + placed)
    while len(found) < 200:
        found["".join(chance.choices(alphabet, k=31))] = None
    return list(found)


@pytest.fixture
async def logged(logging_postgres, logged_database):
    """A participant on a server that logs every statement, and that log from here on."""
    await query(logged_database, "CREATE TABLE business (n int)")
    participant = Postgres(logged_database)
    participant.name = BranchName("db")
    await participant.open()
    yield participant, Log(logging_postgres.log)
    await participant.close()


class Log:
    """Statements in a server's log, since the last reading."""

    def __init__(self, path) -> None:
        self._path, self._offset = path, path.stat().st_size

    def statements(self) -> list[str]:
        """Those of the last interval, simple and prepared ones alike, without what makes a used session as new."""
        text = self._path.read_bytes()[self._offset :].decode()
        self._offset += len(text.encode())
        entries = [part for part in text.split("LOG:  ")[1:] if part.startswith(("statement: ", "execute "))]
        found = [
            re.sub(r"\A(--[^\n]*\n\s*)+", "", entry.split(": ", 1)[1].split("\n20")[0].strip()) for entry in entries
        ]
        as_new = re.compile(r"\ABEGIN; SELECT pg_advisory_unlock_all.*COMMIT; ", re.DOTALL)
        without = [as_new.sub("", statement) for statement in found]
        return [statement for statement in without if "pg_advisory_unlock_all" not in statement]


async def test_200_hostile_ids_reach_no_server(logged):
    """As a gid, and as a branch's name, in every call that takes one: refused here, and nothing was said to the server.

    Then the same calls with ids of ours: exactly the statements that were meant.
    """
    participant, log = logged
    ids = hostile_ids()
    assert len(set(ids)) == 200
    log.statements()
    for text in ids:
        branches = [Prepared(gid=Gid(text), branch=participant.name)]
        if re.fullmatch(r"[a-z0-9_-]{1,32}", text) is None:
            branches.append(Prepared(gid=Gid(f"unan:{ULID}"), branch=BranchName(text)))
        for branch in branches:
            for call in (participant.commit, participant.abort):
                with pytest.raises(InvalidDefinition):
                    await call(branch)
        with pytest.raises(InvalidDefinition):
            await participant.begin(Gid(text), recipe=Recipe.TWO_PHASE)
    assert log.statements() == []
    assert await participant.abort(Prepared(gid=Gid(f"unan:{ULID}"), branch=participant.name)) is Ending.ABORTED
    first, *rest = log.statements()
    assert first == f"ROLLBACK PREPARED 'unan:{ULID}:db'"
    assert [statement.split()[0] for statement in rest] == ["SELECT", "SELECT"]


async def test_a_hostile_id_that_somebody_else_prepared_is_left_alone(logged):
    """It is in the server's list, and so is seen by every sweep; it is never said back to the server."""
    participant, log = logged
    for number, text in enumerate(PAYLOADS):
        if "\x00" not in text:
            escaped = f"unan:{text}:{number}".replace("'", "''")
            connection = await asyncpg.connect(participant.url)
            await connection.execute("BEGIN")
            await connection.execute(f"PREPARE TRANSACTION '{escaped}'")
            await connection.close()
    log.statements()
    assert await participant.in_doubt() == []
    (said,) = log.statements()
    assert "pg_prepared_xacts" in said
    assert await query(participant.url, "SELECT count(*) FROM pg_prepared_xacts") == len(PAYLOADS) - 1


async def test_a_prepared_branch_costs_four_round_trips(logged):
    """BEGIN, the marker with the transaction's id, PREPARE, COMMIT PREPARED; two of them are durable."""
    participant, log = logged
    await participant.commit(await prepared(participant))  # The first one prepares statements.
    log.statements()
    branch = await prepared(participant)
    await participant.commit(branch)
    said = log.statements()
    identifier = f"{branch.gid}:db"
    assert said[0] == f"BEGIN; SET LOCAL unanimity.gid = '{branch.gid}'"
    assert said[1] == "INSERT INTO business VALUES (1)"
    assert said[2].startswith("WITH marked AS")
    assert said[3:] == [f"PREPARE TRANSACTION '{identifier}'", f"COMMIT PREPARED '{identifier}'"]


async def test_a_deciding_branch_costs_three_round_trips(logged):
    """BEGIN, the decision's own statement, COMMIT; the last is the one durable write."""
    participant, log = logged
    await commit_with(await begin(participant, Recipe.COMMIT_RECORD))
    log.statements()
    gid = new_gid("unan", datetime.now(tz=UTC), os.urandom(16))
    session = await begin(participant, Recipe.COMMIT_RECORD, gid)
    await commit_with(session)
    assert log.statements() == [
        f"BEGIN; SET LOCAL unanimity.gid = '{gid}'",
        "INSERT INTO business VALUES (1)",
        "INSERT INTO business VALUES (0)",
        "COMMIT",
    ]


async def test_a_branch_that_wrote_nothing_costs_no_durable_write(logged):
    """It is neither prepared nor does it leave a marker."""
    participant, log = logged
    for _ in range(2):
        log.statements()
        session = await participant.begin(Gid(f"unan:{ULID}"), recipe=Recipe.TWO_PHASE)
        await session.vote(10.0)
        await asyncio.sleep(0)
    said = log.statements()
    assert [statement.split()[0] for statement in said] == ["BEGIN;", "WITH", "COMMIT"]
    assert await query(participant.url, "SELECT count(*) FROM unanimity.branches") == 0
