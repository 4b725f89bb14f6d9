"""What a relay does with its backlog, on a real Postgres and with a broker that takes everything at once."""

import asyncio
import contextlib

import asyncpg
import pytest

from coordinator.errors import Refused
from coordinator.ports import Blame, Parcel
from coordinator.schema import apply
from participants.outbox.relay import Relay
from participants.outbox.runs import runs
from tests.integration.outbox.test_relay import message, write


class Broker:
    """Takes everything, and remembers it."""

    def __init__(self):
        self.taken = []

    async def send(self, rows):
        """One parcel, acknowledged a moment later."""
        self.taken += [row["message_id"] for row in rows]
        acknowledged = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.001, acknowledged.set_result, None)
        return [Parcel(rows, acknowledged)]

    def blame(self, parcel):
        """Nothing fails here."""
        raise AssertionError(parcel)

    async def close(self):
        """Nothing is open."""


class Gate(Broker):
    """Takes nothing until it is opened; what it was given before fails then."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    async def send(self, rows):
        """One parcel, whose acknowledgement is the test's."""
        parcel = Parcel(rows, asyncio.get_running_loop().create_future())
        self.waiting.append(parcel)
        return [parcel]

    def blame(self, parcel):
        """As the test has failed it."""
        return Blame.EACH_ROW if isinstance(parcel.acknowledged.exception(), Refused) else Blame.NO_ROW


@pytest.fixture
async def connect(database):
    """A factory of connections to a database with an outbox."""
    made = []

    async def create():
        made.append(await asyncpg.connect(database))
        return made[-1]

    await apply(await create())
    yield create
    for connection in made:
        await connection.close()


@contextlib.asynccontextmanager
async def relaying(database, broker, **options):
    """A relay that delivers to *broker*."""
    built = Relay(database, {"events": broker}, **{"poll_every_s": 0.05, **options})
    await built.start()
    try:
        yield built
    finally:
        await built.stop()


async def until(condition, within_s=20):
    """Wait for something that has to come."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is the relay's, and it tells nobody.
            await asyncio.sleep(0.005)


async def endless(connection):
    """Rows, faster than a relay of small batches looks at them."""
    for number in range(1000, 1_000_000, 200):
        await write(connection, *(message(n, "t", key=str(n)) for n in range(number, number + 200)))


async def test_a_row_that_comes_late_has_its_turn_under_an_endless_backlog(database, connect):
    """Its id is older than anything that the pass has still before it: only a pass that ends can see it."""
    writer, late, broker = await connect(), await connect(), Broker()
    await late.execute("BEGIN")
    await write(late, message(0, "t", key="late"))
    async with relaying(database, broker, batch=10):
        writing = asyncio.create_task(endless(writer))
        try:
            await until(lambda: len(broker.taken) > 500)
            await late.execute("COMMIT")
            await until(lambda: "m0" in broker.taken)
        finally:
            writing.cancel()
            await asyncio.wait({writing})
    assert len(broker.taken) == len(set(broker.taken)), "and nothing comes twice by beginning again"


async def test_shards_are_shared_under_an_endless_backlog(database, connect):
    """There is always something in flight, and a second relay has its half all the same; nothing is sent twice."""
    writer, broker = await connect(), Broker()
    async with relaying(database, broker, lease_s=1.2) as first:
        writing = asyncio.create_task(endless(writer))
        try:
            await until(lambda: len(broker.taken) > 500)
            async with relaying(database, broker, lease_s=1.2) as second:
                await until(lambda: len(first.shards.terms) == len(second.shards.terms) == 8)
                delivered = second.figures.delivered
                await until(lambda: second.figures.delivered > delivered)
        finally:
            writing.cancel()
            await asyncio.wait({writing})
    assert len(broker.taken) == len(set(broker.taken))


async def test_rows_that_travel_are_not_sent_again_and_hold_up_nobody(database, connect):
    """One look follows the other while acknowledgements are awaited; what failed is sent again, and in its order."""
    writer, gate = await connect(), Gate()
    async with relaying(database, gate) as relay:
        await write(writer, message(1, "t", key="a"))
        await until(lambda: len(gate.waiting) == 1)
        await write(writer, message(2, "t", key="b"))
        await until(lambda: len(gate.waiting) == 2)
        first, second = gate.waiting
        assert [[row["message_id"] for row in parcel.rows] for parcel in gate.waiting] == [["m1"], ["m2"]]
        second.acknowledged.set_result(None)
        await until(lambda: relay.figures.deleted == 1)
        first.acknowledged.set_exception(OSError("no answer"))
        await until(lambda: len(gate.waiting) == 3)
        assert [row["message_id"] for row in gate.waiting[2].rows] == ["m1"]
        gate.waiting[2].acknowledged.set_result(None)
        await until(lambda: relay.figures.deleted == 2)
    assert relay.figures.postponed == relay.figures.replaced == 0


async def test_a_replaced_relay_postpones_nothing(database, connect):
    """Whether a row is given up is for the relay to say that holds the shard's present term."""
    connection, gate = await connect(), Gate()
    async with relaying(database, gate) as relay:
        await write(connection, message(1, "t"))
        await until(lambda: gate.waiting)
        await connection.execute("UPDATE unanimity.outbox_shards SET term = term + 1")
        gate.waiting[0].acknowledged.set_exception(Refused("never"))
        await until(lambda: relay.figures.postponed == 1)
        assert await connection.fetchval("SELECT attempts FROM unanimity.outbox") == 0
        await connection.execute("DELETE FROM unanimity.outbox")
        for parcel in gate.waiting[1:]:
            parcel.acknowledged.set_result(None)


def test_what_may_be_refused_travels_alone_and_in_its_place():
    """Rows that were refused before, and those of a batch that was; the others go together."""
    rows = [
        {"id": number, "participant": participant, "attempts": attempts}
        for number, (participant, attempts) in enumerate([("a", 0), ("b", 0), ("a", 0), ("a", 1), ("a", 0), ("b", 0)])
    ]
    assert [(name, [row["id"] for row in run]) for name, run in runs(rows, {4})] == [
        ("a", [0, 2]),
        ("a", [3]),
        ("a", [4]),
        ("b", [1, 5]),
    ]
