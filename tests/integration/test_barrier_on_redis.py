"""The barrier's script decides as `decision.py` does, for every record that a step can have; and Redis' own matters."""

import asyncio
import itertools
from datetime import UTC, datetime

import pytest
import redis.asyncio

from coordinator.errors import CoordinatorError, InDoubt, InvalidDefinition
from coordinator.gids import new_gid
from participants.barrier import Barrier, Call, Direction, Verdict
from participants.barrier.decision import Record, State
from participants.barrier.memory import Memory, MemoryConnection
from participants.barrier.on_redis import RedisBarrier

PAYLOAD, OTHER = b"p", b"q"
FINGERPRINT = Call("", "", Direction.ACTION, PAYLOAD).fingerprint
KEY = 'barrier:["s", "g", "pay"]'


@pytest.fixture
async def client(redis_url):
    """A client of an empty Redis."""
    async with redis.asyncio.from_url(redis_url) as made:
        await made.flushall()
        yield made


def steps(direction):
    """Every set of records that a delivery can meet."""
    for origin_state in (None, *State):
        records = {}
        if origin_state is not None:
            mark = None if origin_state is State.BLOCKED else FINGERPRINT
            answered = origin_state not in (State.BLOCKED, State.INTENDED)
            records[direction.origin] = Record(origin_state, 5, mark, b"answer" if answered else None)
        if direction is direction.origin:
            yield records
            continue
        yield records
        yield records | {direction: Record(State.INTENDED, 4, FINGERPRINT)}
        yield records | {direction: Record(State.DONE, 4, FINGERPRINT, b"own")}


async def by_python(records, use):
    table = Memory()
    table.committed = {("s", "g", "pay", direction.value): record for direction, record in records.items()}
    barrier, connection = Barrier("s", table), MemoryConnection()
    try:
        answer = await use(barrier, connection, table)
    except CoordinatorError as error:
        return type(error), records
    return answer, {Direction(key[-1]): record for key, record in table.committed.items()}


async def by_script(client, records, use):
    await client.delete(KEY)
    for direction, record in records.items():
        fields = {"state": record.state.value, "term": record.term}
        optional = {"fingerprint": record.fingerprint, "result": record.result}
        fields |= {name: value for name, value in optional.items() if value is not None}
        await client.hset(KEY, mapping={f"{direction}:{name}": value for name, value in fields.items()})
    try:
        answer = await use(RedisBarrier("s", client))
    except CoordinatorError as error:
        answer = type(error)
    found = {name.decode().split(":")[0] for name in await client.hkeys(KEY)}
    return answer, {Direction(name): await _record(client, name) for name in found}


async def _record(client, direction):
    state, term, mark, result = await client.hmget(
        KEY, [f"{direction}:{name}" for name in ("state", "term", "fingerprint", "result")]
    )
    return Record(State(state.decode()), int(term), mark, result)


@pytest.mark.parametrize("direction", Direction)
async def test_the_script_decides_and_records_as_the_pure_rules_do(client, direction):
    """Every direction, mode, record, term and payload."""
    compared = 0
    for records, term, payload in itertools.product(steps(direction), (4, 5, 6), (PAYLOAD, OTHER)):
        call = Call("g", "pay", direction, payload, term)

        async def enter(barrier, connection, table, call=call):
            async with table.transaction(connection):
                return await barrier.enter(connection, call)

        async def settle(barrier, connection, table, call=call):
            async with table.transaction(connection):
                return await barrier.settle(connection, call, b"settled")

        async def ask(barrier, connection, table, call=call):
            async with table.transaction(connection):
                return await barrier.ask(connection, call)

        uses = [
            (ask, lambda barrier, call=call: barrier.ask(call)),
            (enter, lambda barrier, call=call: barrier.enter(call)),
            (
                lambda barrier, connection, table, call=call: barrier.intend(connection, call),
                lambda b, c=call: b.intend(c),
            ),
            (settle, lambda barrier, call=call: barrier.settle(call, result=b"settled")),
        ]
        for python, script in uses:
            assert await by_script(client, records, script) == await by_python(records, python), (call, records)
            compared += 1
    assert compared > 100


async def test_an_effect_is_carried_out_with_its_record_or_not_at_all(client):
    """Where its command fails nothing is recorded, and the redelivery has its effect."""
    barrier, call = RedisBarrier("s", client), Call("g", "pay", Direction.ACTION)
    await client.set("balance", "not a number")
    with pytest.raises(redis.exceptions.ResponseError):
        await barrier.enter(call, ("DECRBY", "balance", 30))
    assert not await client.exists(KEY)
    await client.set("balance", 100)
    passage = await barrier.enter(call, ("DECRBY", "balance", 30), result=b"paid")
    assert (passage.verdict, passage.answers) == (Verdict.PROCEED, (70,))
    assert (await barrier.enter(call, ("DECRBY", "balance", 30))).result == b"paid"
    assert int(await client.get("balance")) == 70


@pytest.mark.parametrize("command", [("PING",), "DECRBY balance 30", ("RPUSH", "list", *range(7_000))], ids=len)
async def test_what_the_script_cannot_carry_out_is_refused_before(client, command):
    barrier, call = RedisBarrier("s", client), Call("g", "pay", Direction.ACTION)
    with pytest.raises(InvalidDefinition, match="its name, its key"):
        await barrier.enter(call, command)
    assert not await client.exists(KEY)
    assert (await barrier.enter(call, ("RPUSH", "list", *range(6_998)))).answers == (6_998,)


async def test_a_step_is_forgotten_after_its_retention_but_not_while_its_marker_is_open(client):
    """A marker is what an undo depends on."""
    barrier, call = RedisBarrier("s", client, retention_s=0.05), Call("g", "pay", Direction.ACTION)
    await barrier.intend(call)
    assert await client.pttl(KEY) == -1
    await barrier.settle(call)
    assert 0 < await client.pttl(KEY) <= 50
    while await client.exists(KEY):  # noqa: ASYNC110 - Redis says nothing when it forgets.
        await asyncio.sleep(0.01)


async def test_an_undo_of_a_step_that_was_forgotten_is_in_doubt(client):
    """By Redis' own clock, which is the one that forgets."""
    barrier = RedisBarrier("s", client, retention_s=0.05)
    call = Call(new_gid("test", datetime.now(UTC), bytes(16)), "pay", Direction.ACTION)
    await barrier.enter(call, ("SET", "paid", 1))
    while await client.exists(f'barrier:["s", "{call.gid}", "pay"]'):  # noqa: ASYNC110 - Redis does not say it.
        await asyncio.sleep(0.01)
    with pytest.raises(InDoubt, match="has forgotten it"):
        await barrier.enter(Call(call.gid, "pay", Direction.COMPENSATION), ("DEL", "paid"))
    assert await client.keys() == [b"paid"]


async def test_a_client_that_decodes_what_it_reads_is_refused(redis_url):
    """A result that is no text could be kept, and no duplicate could have it."""
    async with redis.asyncio.from_url(redis_url, decode_responses=True) as decoding:
        with pytest.raises(InvalidDefinition, match="decode_responses"):
            RedisBarrier("s", decoding)


async def test_names_with_any_characters_are_told_apart(client):
    """A colon, a quote or a brace in a name does not make two steps one."""
    for scope, gid, step in (("a", "b:c", "d"), ("a:b", "c", "d"), ("a", "b", "c:d"), ('a", "b', "c", "d")):
        passage = await RedisBarrier(scope, client).enter(Call(gid, step, Direction.ACTION))
        assert passage.verdict is Verdict.PROCEED
