"""The relay on a real Postgres and a real Kafka: nothing lost, order per key kept, one bad row in nobody's way."""

import asyncio
import json
import random
import sys
from collections import defaultdict

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer

from coordinator.outbox_rows import outbox_columns
from coordinator.ports import Message
from coordinator.protocol.model import BranchName
from coordinator.schema import apply
from participants.kafka.publisher import KafkaPublisher
from participants.outbox.backlog import SQL, Backlog
from participants.outbox.dead_letters import DeadLetters
from participants.outbox.relay import Relay

INSERT = """
    INSERT INTO unanimity.outbox (message_id, gid, participant, topic, key, value, headers, partition, shard, waiting)
    SELECT m.message_id, 'test', m.participant, m.topic, m.key, m.value, m.headers, m.partition, m.shard, m.waiting
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::jsonb[], $7::int[], $8::smallint[],
        $9::boolean[]) WITH ORDINALITY AS m (message_id, participant, topic, key, value, headers, partition, shard,
        waiting, position) ORDER BY m.position
"""
EVENTS = BranchName("events")


def message(number, topic, *, key="k", value=None) -> Message:
    return Message(
        id=f"m{number}",
        participant=EVENTS,
        topic=topic,
        key=key.encode(),
        value=str(number).encode() if value is None else value,
        headers=(("h", b"\x00\xff"),),
    )


async def write(connection, *messages, ready=True) -> None:
    await connection.execute(INSERT, *outbox_columns(messages, frozenset({EVENTS}) if ready else frozenset()))


class Reader:
    """Everything that was delivered, in the order of delivery."""

    def __init__(self, bootstrap, topic):
        self.topic, self.bootstrap, self.records = topic, bootstrap, []

    async def until(self, number, within_s=30):
        """Read until *number* different messages are there, and a little longer: nothing may come twice."""
        consumer = AIOKafkaConsumer(self.topic, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            deadline = asyncio.get_running_loop().time() + within_s
            while asyncio.get_running_loop().time() < deadline:
                batch = await consumer.getmany(timeout_ms=300)
                if not batch and len(self.ids()) >= number:
                    break
                self.records += [record for records in batch.values() for record in records]
        finally:
            await consumer.stop()
        return self

    def ids(self):
        return {dict(record.headers)["message-id"].decode() for record in self.records}

    def by_key(self):
        """The first occurrence of every message, per key, in order."""
        found = defaultdict(list)
        for record in self.records:
            if record.value not in found[record.key]:
                found[record.key].append(record.value)
        return found


@pytest.fixture
async def connection(database):
    built = await asyncpg.connect(database)
    await apply(built)
    yield built
    await built.close()


@pytest.fixture
async def relay(database, kafka):
    """A factory of started relays."""
    made = []

    async def start(**options) -> Relay:
        built = Relay(database, {"events": KafkaPublisher(kafka.bootstrap)}, **{"poll_every_s": 0.2, **options})
        made.append(built)
        await built.start()
        return built

    yield start
    for built in made:
        await built.stop()
        await built.stop()


async def test_rows_are_delivered_in_order_with_their_headers_and_deleted(connection, relay, topic, kafka):
    """A stable id travels in the headers, beside the user's own."""
    await write(connection, *(message(n, topic) for n in range(50)))
    built = await relay()
    reader = await Reader(kafka.bootstrap, topic).until(50)
    assert [int(record.value) for record in reader.records] == list(range(50))
    assert dict(reader.records[0].headers) == {"h": b"\x00\xff", "message-id": b"m0"}
    for _ in range(100):
        if await connection.fetchval("SELECT count(*) FROM unanimity.outbox") == 0:
            break
        await asyncio.sleep(0.02)
    assert await built.lag() == {"waiting": 0, "ready": 0, "dead": 0, "age_s": 0.0}


async def test_waiting_rows_are_nobodys_to_deliver(connection, relay, topic, kafka):
    """They belong to a Kafka transaction whose outcome is not known."""
    await write(connection, message(0, topic), ready=False)
    await write(connection, message(1, topic))
    await relay()
    assert (await Reader(kafka.bootstrap, topic).until(1)).ids() == {"m1"}


async def test_gaps_in_doubt_and_strangers_neither_lose_nor_hold_up_a_row(connection, relay, topic, kafka, database):
    """Random commits, rollbacks and prepared transactions, out of order, beside an open one of a stranger."""
    chance, expected = random.Random(7), set()
    stranger = await asyncpg.connect(database)
    await stranger.execute("BEGIN; CREATE TABLE stranger (n int)")
    await relay()
    prepared = []
    for number in range(60):
        writer = await asyncpg.connect(database)
        await writer.execute("BEGIN")
        await write(writer, message(number, topic, key=str(number % 7)))
        ending = chance.choice(["COMMIT", "COMMIT", "ROLLBACK", f"PREPARE TRANSACTION 'gap-{number}'"])
        await writer.execute(ending)
        await writer.close()
        if ending.startswith("PREPARE"):
            prepared.append(number)
        if ending == "COMMIT":
            expected.add(f"m{number}")
    assert (await Reader(kafka.bootstrap, topic).until(len(expected))).ids() == expected
    for number in prepared:
        await connection.execute(f"COMMIT PREPARED 'gap-{number}'")
        expected.add(f"m{number}")
    reader = await Reader(kafka.bootstrap, topic).until(len(expected))
    assert reader.ids() == expected
    assert len(reader.records) == len(expected), "nothing comes twice without a crash"
    await stranger.close()


async def test_two_relays_keep_the_order_of_every_key(connection, relay, create_topic, kafka):
    """Shards move while rows come; no key is ever seen out of order, and nothing is lost."""
    topic = await create_topic(4)
    await relay(lease_s=1.2)
    for part in range(6):
        await write(connection, *(message(n, topic, key=f"k{n % 24}") for n in range(part * 200, part * 200 + 200)))
        if part == 2:
            second = await relay(lease_s=1.2)
        await asyncio.sleep(0.15)
    reader = await Reader(kafka.bootstrap, topic).until(1200)
    assert len(reader.ids()) == 1200
    for values in reader.by_key().values():
        numbers = [int(value) for value in values]
        assert numbers == sorted(numbers)
    for _ in range(100):
        if len(second.shards.terms) == 8:
            break
        await asyncio.sleep(0.05)
    assert len(second.shards.terms) == 8, "both have a fair share in the end"


async def test_a_bad_row_holds_up_its_key_until_it_is_given_up(connection, relay, topic, kafka):
    """Others are delivered meanwhile; afterwards its key goes on, and an operator can have it retried."""
    await write(connection, message(0, "no-topic-yet", key="bad"))
    await write(connection, *(message(n, topic, key=f"k{n}") for n in range(1, 6)))
    built = await relay(poll_every_s=0.05)
    assert len((await Reader(kafka.bootstrap, topic).until(5)).ids()) == 5
    letters = DeadLetters(connection)
    for _ in range(600):
        # The relay counts what the database has told it, a moment after the row says so.
        if (dead := await letters.list()) and built.figures.dead:
            break
        await asyncio.sleep(0.05)
    assert [(letter.message_id, letter.attempts) for letter in dead] == [("m0", 6)]
    assert "no-topic-yet" in dead[0].last_error
    assert built.figures.dead == 1
    await kafka.create_topic("no-topic-yet")
    assert await letters.retry(dead[0].id) == 1
    assert (await Reader(kafka.bootstrap, "no-topic-yet").until(1)).ids() == {"m0"}
    assert await letters.list() == []


async def test_waking_does_not_wait_for_the_next_poll(connection, relay, topic, kafka):
    """The writer of the same process is delivered at once."""
    built = await relay(poll_every_s=30.0)
    await asyncio.sleep(0.3)
    built.poll_every_s = 30.0
    for _ in range(14):
        await asyncio.sleep(0.01)
    await write(connection, message(1, topic))
    built.wake()
    assert (await Reader(kafka.bootstrap, topic).until(1, within_s=5)).ids() == {"m1"}


async def test_a_replaced_relay_deletes_nothing(connection, relay, topic):
    """Its terms are in every delete; rows of shards that moved on are dropped and counted."""
    built = await relay()
    await write(connection, message(1, topic), ready=False)
    identifier = await connection.fetchval("UPDATE unanimity.outbox SET waiting = false, dead = true RETURNING id")
    old = dict(built.shards.terms)
    await connection.execute("UPDATE unanimity.outbox_shards SET relay = 'another', term = term + 1")
    await built.delete([identifier], old)
    assert await connection.fetchval("SELECT count(*) FROM unanimity.outbox") == 1
    assert built.figures.replaced == 1


@pytest.mark.parametrize("cell", ["before", "reply_lost", "after", "late"])
@pytest.mark.parametrize("point", ["outbox.publish", "outbox.delete"])
async def test_a_killed_relay_loses_nothing_and_repeats_what_was_in_flight(
    connection, relay, topic, kafka, database, point, cell
):
    """Killed anywhere between the first send and the delete: a second relay delivers the rest, with the same ids."""
    await write(connection, *(message(n, topic) for n in range(300)))
    script = (
        "import asyncio, os\n"
        "from coordinator.faults.injectors import arm_from_environment\n"
        "from participants.outbox.relay import Relay\n"
        "from participants.kafka.publisher import KafkaPublisher\n"
        "async def main():\n"
        "    arm_from_environment()\n"
        f"    relay = Relay({database!r}, {{'events': KafkaPublisher({kafka.bootstrap!r})}}, lease_s=1.0, batch=50)\n"
        "    await relay.start()\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    import os

    environment = {**os.environ, "COORDINATOR_FAULTS": f"{point}:{cell}=crash"}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment)
    assert await child.wait() == -9
    await relay(lease_s=1.0)
    reader = await Reader(kafka.bootstrap, topic).until(300)
    assert len(reader.ids()) == 300
    assert len(reader.records) <= 300 + 4 * 50
    assert [int(value) for value in reader.by_key()[b"k"]] == list(range(300))


@pytest.mark.parametrize("shards", [16, 8])
async def test_the_backlog_is_read_by_its_index_in_its_order(database, shards):
    """Whatever the planner believes: to read or sort the whole backlog would be slow just when it matters."""
    backlog = Backlog(database, {})
    await backlog.open()
    async with backlog.connection() as connection:
        await apply(connection)
        await connection.execute(
            "INSERT INTO unanimity.outbox (message_id, participant, topic, shard) "
            "SELECT n::text, 'events', 't', n % 16 FROM generate_series(1, 20000) AS n"
        )
        for statement in ("SELECT", "ANALYZE unanimity.outbox"):
            await connection.execute(statement)
            answer = await connection.fetchval(
                "EXPLAIN (ANALYZE, FORMAT JSON) " + SQL["select"], list(range(shards)), 500, 100
            )
            plan = json.loads(answer)[0]["Plan"]
            (scan,) = plan["Plans"]
            assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "outbox_ready")
            assert scan["Actual Rows"] == 100
    backlog.close()
