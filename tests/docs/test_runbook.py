"""What `docs/operating.md` tells operators to run is run, and does what the page says."""

import asyncio
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from coordinator import Coordinator, Park, Parked, Unavailable, doctor
from coordinator.gids import new_gid
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, await_signal, step
from coordinator.schema import apply
from examples.social_post.observer import until
from examples.social_post.promises import SETTINGS
from examples.social_post.service import TABLES
from participants import Kafka, Postgres
from tests.docs.pages import ROOT, blocks, part
from tests.docs.privileges import PAGE

WITHIN_S = 60
NOWHERE = "127.0.0.1:1"
LETTER = """
    INSERT INTO unanimity.outbox (message_id, participant, topic, key, value, shard, dead, attempts, last_error)
    VALUES ('m', 'events', $1, 'k', 'v', 0, true, 6, 'UnknownTopicOrPartitionError')
"""


@pytest.fixture
def run(database, kafka, tmp_path):
    """A function that runs a part of the page, with the settings of an operator of this database and this broker."""
    party = f'[participants]\ndb = "{database}"\nevents = "kafka://{kafka.bootstrap}"\n'
    (tmp_path / "coordinator.toml").write_text(f'journal = "{database}"\n{party}')
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COORDINATOR_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    async def run(name: str, gid: str = "", *, code: int = 0) -> str:
        command = ("bash", "-euo", "pipefail", "-c", part(PAGE, name))
        running = await asyncio.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env=environment | {"GID": gid, "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(running.communicate(), WITHIN_S)
        assert running.returncode == code, output.decode()
        return output.decode()

    return run


@pytest.fixture
async def connection(database):
    """The operator's own eyes."""
    opened = await asyncpg.connect(database)
    await apply(opened)
    await opened.execute(TABLES)
    yield opened
    await opened.close()


def coordinator(database: str, brokers: str) -> Coordinator:
    participants = {"db": Postgres(database), "events": Kafka(brokers)}
    return Coordinator(journal=database, participants=participants, settings=SETTINGS)


async def test_a_parked_transaction_is_looked_at_and_decided(run, connection, database):
    """The broker is away; the operator commits, and the message waits in the outbox."""
    async with coordinator(database, NOWHERE) as running:
        with pytest.raises(Parked) as held:
            async with running.transaction("t", policy=Park(within_s=0.2), recipe="last-resource") as transaction:
                db = await transaction.enlist("db")
                await db.execute("INSERT INTO posts (author, body) VALUES ('ann', 'hello')")
                await transaction.publish("events", topic="posts", value="hello")
        gid = held.value.gid
        looked = await run("looking", gid)
        assert looked.count(gid) >= 3  # Listed, in doubt, and alerted; and its story is told:
        assert "the alert parked is open" in looked
        await run("parked", gid)
        assert await connection.fetchval("SELECT count(*) FROM posts") == 1
    assert await connection.fetchval("SELECT count(*) FROM unanimity.alerts WHERE resolved_at IS NULL") == 0
    assert await connection.fetchval("SELECT count(*) FROM unanimity.audit WHERE actor = 'ann'") == 2


async def test_a_branch_that_is_older_than_the_journal_is_decided(run, connection, database):
    """Only a word of an operator ends it."""
    prefix = await connection.fetchval("SELECT prefix FROM unanimity.prefix")
    old = new_gid(prefix, datetime.now(tz=UTC) - timedelta(days=2), bytes(16))
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO posts (author, body) VALUES ('ann', 'hello')")
    await connection.execute(f"PREPARE TRANSACTION '{old}:db'")
    async with coordinator(database, NOWHERE):
        assert "prepared" in await run("in-doubt", old)
    assert await connection.fetchval("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()") == 0
    assert await connection.fetchval("SELECT count(*) FROM posts") == 0


class Bank:
    """Charges and refunds that fail for as often as it is told."""

    def __init__(self, *, charge=0, refund=0):
        self.fails, self.calls = {"charge": charge, "refund": refund}, []

    def answer(self, name):
        """One call."""
        self.calls.append(name)
        self.fails[name] -= 1
        if self.fails[name] >= 0:
            raise Unavailable(f"{name}: the bank is closed")

    def saga(self):
        """It is charged, with an hour between two attempts, and then waits; its refund is tried once."""

        async def charge() -> None:
            self.answer("charge")

        async def refund() -> None:
            self.answer("refund")

        hourly, once = Attempts(at_most=2, backoff_s=3600, backoff_max_s=3600), Attempts(at_most=1)
        charged = step(charge, compensate=refund, retry=hourly, undo_retry=once)
        return Saga("order", charged, await_signal("shipped"), version="1")


async def test_a_saga_is_tried_again_called_off_resumed_and_skipped(run, connection, database):
    """Each of the four words, where the page says that it helps; and its alert is open for as long as it is parked."""
    bank = Bank(charge=1, refund=2)
    saga = bank.saga()

    async def parked():
        return await connection.fetchval(
            "SELECT count(*) = 1 AND bool_and(owner = '' AND wake_at IS NULL)"
            " FROM unanimity.alerts JOIN unanimity.sagas USING (gid) WHERE resolved_at IS NULL"
        )

    async def called(*calls):
        return bank.calls == list(calls)

    async with Coordinator(journal=database, sagas=[saga], settings=SETTINGS) as running:
        handle = await running.start(saga)
        assert await until(lambda: called("charge"), WITHIN_S) is not None
        await run("saga-retry", handle.gid)
        assert await until(lambda: called("charge", "charge"), WITHIN_S) is not None
        await run("saga-cancel", handle.gid)
        assert await until(parked, WITHIN_S) is not None
        assert (await run("sagas", handle.gid)).count(handle.gid) >= 1
        await run("saga-resume", handle.gid)
        assert await until(lambda: called("charge", "charge", "refund", "refund"), WITHIN_S) is not None
        assert await until(parked, WITHIN_S) is not None
        await run("saga-skip", handle.gid)

        async def undone():
            return (await handle.outcome()).phase is Phase.COMPENSATED

        assert await until(undone, WITHIN_S) is not None
    assert bank.calls == ["charge", "charge", "refund", "refund"]
    assert await connection.fetchval("SELECT count(*) FROM unanimity.alerts WHERE resolved_at IS NULL") == 0
    assert await connection.fetchval("SELECT resolved_by FROM unanimity.alerts") == "ann"


async def test_what_was_given_up_is_delivered_or_discarded(run, connection, database, kafka, topic):
    """By the relay of whoever runs."""

    async def nothing_left():
        return await connection.fetchval("SELECT count(*) = 0 FROM unanimity.outbox")

    await connection.execute(LETTER, topic)
    async with coordinator(database, kafka.bootstrap):
        await run("dead-letters")
        assert await until(nothing_left, WITHIN_S) is not None
    await connection.execute(LETTER, topic)
    await run("discard")
    assert await nothing_left()


async def test_the_doctor_is_asked(run, connection):
    """Its notes on a single broker are no failure."""
    assert "max_prepared_transactions" in await run("doctor", code=1)


async def test_the_page_names_everything_that_the_doctor_looks_at(database, kafka, connection):
    """Whoever reads what to set reads all of it."""
    page = PAGE.read_text()
    found = [*await doctor.examine_postgres(database), *await doctor.examine_kafka(kafka.bootstrap)]
    looked_at = {re.sub("^tables of .*", "tables of each component", finding.what) for finding in found}
    assert {what for what in looked_at if what not in page} == set()


def test_every_part_of_the_page_is_run_by_a_test():
    """A block that is named, and asked for by nobody, would be run by nobody."""
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "docs").glob("*.py"))
    names = {block.said for block in blocks(PAGE) if block.mark == "part"}
    assert names
    assert {name for name in names if not re.search(rf'"{name}"', tests)} == set()
