"""The inbox: a message's effect happens once, however often and however concurrently it is delivered."""

import asyncio

import asyncpg
import pytest

from coordinator.errors import InvalidDefinition, KeyReused, Refused
from participants.inbox import Inbox, message_id


@pytest.fixture
async def connect(database):
    """A factory of connections to a database with an inbox and something to have an effect on."""
    made = []

    async def create():
        made.append(await asyncpg.connect(database))
        return made[-1]

    first = await create()
    await Inbox("notifier").create(first)
    await first.execute("CREATE TABLE effects (id text)")
    yield create
    for connection in made:
        await connection.close()


async def handle(connection, identifier, payload=b"p") -> bool:
    """A consumer: the effect and the id are one transaction."""
    async with connection.transaction():
        if not await Inbox("notifier").first_time(connection, identifier, payload):
            return False
        await connection.execute("INSERT INTO effects VALUES ($1)", identifier)
        return True


async def effects(connection) -> int:
    return await connection.fetchval("SELECT count(*) FROM effects")


async def test_a_duplicate_has_no_effect(connect):
    """The second delivery finds the id beside the first one's effect."""
    connection = await connect()
    assert [await handle(connection, "m1"), await handle(connection, "m1"), await handle(connection, "m2")] == [
        True,
        False,
        True,
    ]
    assert await effects(connection) == 2


async def test_a_rollback_forgets_the_id_with_the_effect(connect):
    """A crash takes both back, so the redelivery has its effect."""
    connection = await connect()
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction():
            assert await Inbox("notifier").first_time(connection, "m1")
            _ = 1 / 0
    assert await handle(connection, "m1")


async def test_concurrent_duplicates_have_one_effect(connect):
    """They meet at the unique index: the second waits for the first, and then knows."""
    connections = [await connect() for _ in range(6)]
    results = await asyncio.gather(*(handle(connection, "m1") for connection in connections))
    assert sorted(results) == [False] * 5 + [True]
    assert await effects(connections[0]) == 1


async def test_the_same_id_with_another_payload_is_refused(connect):
    """Whoever reuses an id has a bug that must not be hidden."""
    connection = await connect()
    await handle(connection, "m1", b"one")
    with pytest.raises(KeyReused):
        await handle(connection, "m1", b"another")


async def test_outside_of_a_transaction_it_is_refused(connect):
    """Recorded apart from the effect, an id would lose messages."""
    with pytest.raises(InvalidDefinition, match="inside the transaction"):
        await Inbox("notifier").first_time(await connect(), "m1")


async def test_purging_forgets_old_ids_only(connect):
    """A batch at a time."""
    connection = await connect()
    await handle(connection, "old")
    await connection.execute("UPDATE unanimity.inbox SET received_at = now() - interval '8 days'")
    await handle(connection, "new")
    assert await Inbox("notifier").purge(connection) == 1
    assert not await handle(connection, "new")


def test_the_id_is_read_from_the_headers():
    """Ours is the last one, whatever the publishing code called its own."""
    assert message_id([("message-id", b"theirs"), ("x", b"y"), ("message-id", b"ours")]) == "ours"
    with pytest.raises(Refused):
        message_id([("x", b"y")])
