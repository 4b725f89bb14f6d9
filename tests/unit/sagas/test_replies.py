"""Replies that are handed to sagas: each answers its own command alone, and what is none is told from a late one."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from coordinator import Compensated, Coordinator, InvalidDefinition
from coordinator.limits import SAGA_SIGNAL_BYTES_MAX, SAGA_SIGNALS_MAX
from coordinator.sagas import Command, Saga, await_signal, command, deliver_reply


async def charge_command() -> Command:
    return Command(value=b"")


_, CHARGED = command("charge", charge_command, topic="commands", participant="events", within=60, of=int)
ORDER = Saga("order", replace(CHARGED, after=()))
APPROVED = Saga("approved", await_signal("approval", of=bool))
NOTED = Saga("noted", await_signal("note"))


class Bill(BaseModel):
    """What a signal brings."""

    id: UUID


BILLED = Saga("billed", await_signal("bill", of=Bill))


@pytest.fixture
async def coordinator(request):
    """On a log in memory."""
    async with Coordinator(journal=f"memory://{request.node.name}", sagas=[ORDER, APPROVED]) as running:
        yield running


def address(gid, step="charge"):
    """The headers of a reply."""
    return [("saga-gid", gid.encode()), ("saga-step", step.encode())]


@pytest.mark.parametrize("word", ["!cancel", "!resume", "!skip", "!retry", "!other"])
async def test_a_reply_is_no_word_of_an_operator_s(coordinator, word):
    """Whoever may write to a topic could call sagas off otherwise, and no audit would know."""
    handle = await coordinator.start(ORDER)
    with pytest.raises(ValueError, match="does not begin with '!'"):
        await deliver_reply(coordinator, address(handle.gid, word), b'{"by": "", "reason": "by a reply"}')
    with pytest.raises(InvalidDefinition, match="does not begin with '!'"):
        await coordinator.sagas.send(handle.gid, word, {"by": "ada", "reason": "by a reply", "step": "charge"})
    assert await deliver_reply(coordinator, address(handle.gid), b"5")
    assert (await handle.result()).outputs["charge"] == 5


async def test_a_reply_answers_its_command_and_no_other_signal(coordinator):
    """Whoever may write to the topic of replies could approve a payout otherwise."""
    handle = await coordinator.start(APPROVED)
    await deliver_reply(coordinator, address(handle.gid, "approval"), b"true")
    for name in ("approval", "charge"):
        with pytest.raises(ValueError, match="'saga-step' of its command"):
            await deliver_reply(coordinator, [("saga-gid", handle.gid.encode()), ("saga-signal", name.encode())], b"1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await handle.result()
    await handle.signal("approval", False)
    assert (await handle.result()).outputs["approval"] is False


async def test_no_signal_is_taken_for_a_reply(coordinator):
    """Neither by the name of the step, nor by that of its reply."""
    handle = await coordinator.start(ORDER)
    for name in ("charge", "reply:charge"):
        with pytest.raises(InvalidDefinition, match=f"waits for no signal '{name}' .it waits for: none"):
            await handle.signal(name, 5)
    with pytest.raises(InvalidDefinition, match="does not begin with"):
        await coordinator.sagas.send(handle.gid, "reply:charge", 5)
    with pytest.raises(InvalidDefinition, match="does not begin with"):
        await_signal("reply:charge")
    await coordinator.sagas.send(handle.gid, "charge", 5)
    assert await deliver_reply(coordinator, address(handle.gid), b"6")
    assert (await handle.result()).outputs["charge"] == 6


GID = "unan:" + "0" * 26
NO_REPLIES = {
    "no headers": ([], b"5"),
    "one header": (address(GID)[:1], b"5"),
    "a header without a value": ([("saga-gid", None), ("saga-step", b"charge")], b"5"),
    "headers that are no text": ([("saga-gid", b"\xff"), ("saga-step", b"charge")], b"5"),
    "no gid": (address("unan:none"), b"5"),
    "a step with a NUL": (address(GID, "char\0ge"), b"5"),
    "a tombstone": (address(GID), None),
    "nothing": (address(GID), b""),
    "no JSON": (address(GID), b"{"),
    "no number": (address(GID), b"NaN"),
    "an endless number": (address(GID), b'{"amount": -Infinity}'),
    "a number that is too large": (address(GID), b"1e999"),
    "a number that is too large, further down": (address(GID), b'{"amount": [-1e400]}'),
    "a step of too many bytes": (address(GID, "s" * 501), b"5"),
    "a step without a name": (address(GID, ""), b"5"),
    "more digits than are read": (address(GID), b"1" * 5_000),
    "half of a pair": (address(GID), b'"\\ud800"'),
    "too deep": (address(GID), b"[" * 1_000 + b"]" * 1_000),
    "too long": (address(GID), b'"' + b"x" * SAGA_SIGNAL_BYTES_MAX + b'"'),
}


@pytest.mark.parametrize(("headers", "value"), NO_REPLIES.values(), ids=NO_REPLIES)
async def test_a_record_that_is_no_reply_raises_what_the_consumer_sets_it_aside_for(coordinator, headers, value):
    """Records of others stand in a topic too, and the next one is to be handed over all the same."""
    with pytest.raises(ValueError, match=r"."):
        await deliver_reply(coordinator, headers, value)


@pytest.mark.parametrize(
    "payload",
    [float("inf"), {"amount": float("nan")}, object(), {"id": UUID(int=4)}, SecretStr("0000")],
    ids=repr,
)
async def test_a_signal_that_no_journal_takes_is_refused_before_it_is_sent(coordinator, payload):
    """A handle that has not the definition asks nobody else."""
    with pytest.raises(InvalidDefinition, match="a signal is JSON"):
        await coordinator.sagas.send(GID, "charge", payload)
    handle = await coordinator.start(NOTED)
    with pytest.raises(InvalidDefinition):
        await handle.signal("note", payload)


async def test_a_handle_that_has_not_the_definition_sends_what_its_type_may_be(coordinator):
    """It cannot be told here that it is another value: whoever has the definition reads it as what it is."""
    handle = await coordinator.start(BILLED)
    handle._pinned = False
    await handle.signal("bill", Bill(id=UUID(int=4)))
    assert (await handle.result()).outputs["bill"] == Bill(id=UUID(int=4))


async def test_headers_may_be_text(coordinator):
    """As some clients read them."""
    handle = await coordinator.start(ORDER)
    assert await deliver_reply(coordinator, [("saga-gid", handle.gid), ("saga-step", "charge")], b"5")
    assert (await handle.result()).outputs["charge"] == 5


async def test_a_reply_is_kept_for_its_saga_whatever_others_have_sent_that(coordinator):
    """Its consumer commits its offset then: it would never come again."""
    handle = await coordinator.start(ORDER)
    for _ in range(SAGA_SIGNALS_MAX):
        await coordinator.sagas.send(handle.gid, "chatter", 1)
    assert await deliver_reply(coordinator, address(handle.gid), b"5")
    assert (await handle.result()).outputs["charge"] == 5


async def test_a_reply_for_which_nobody_waits_any_more_is_no_error(coordinator):
    """Its saga has ended, or there never was one; only these two are told so."""
    handle = await coordinator.start(ORDER)
    assert await deliver_reply(coordinator, address(handle.gid), b"5")
    await handle.result()
    assert not await deliver_reply(coordinator, address(handle.gid), b"5")
    assert not await deliver_reply(coordinator, address(GID), b"5")


@pytest.mark.parametrize("payload", ["5", "null", "[]", '"now"'])
async def test_a_word_that_cannot_be_understood_is_passed_over_and_the_saga_goes_on(coordinator, payload, caplog):
    """It may stand in a journal already; and the next word is heard."""
    log = coordinator.sagas.engine.log
    handle, other = await coordinator.start(ORDER), await coordinator.start(ORDER)
    for each in (handle, other):
        assert await log.send(each.gid, "!cancel", payload)
        coordinator.sagas.engine.listening.nudge(each.gid)
    async with asyncio.timeout(20):
        assert await deliver_reply(coordinator, address(handle.gid), b"5")
        assert (await handle.result()).outputs["charge"] == 5
        await other.cancel("an operator's")
        with pytest.raises(Compensated, match="an operator's"):
            await other.result()
    assert "no object" in caplog.text
