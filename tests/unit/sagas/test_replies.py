"""Replies that are handed to sagas: none of them steers one."""

import asyncio

import pytest

from coordinator import Compensated, Coordinator, InvalidDefinition
from coordinator.sagas import Saga, await_signal, deliver_reply

ORDER = Saga("order", await_signal("charge", within=60, of=int))


@pytest.fixture
async def coordinator(request):
    """On a log in memory."""
    async with Coordinator(journal=f"memory://{request.node.name}", sagas=[ORDER]) as running:
        yield running


def address(gid, signal="charge"):
    """The headers of a reply."""
    return [("saga-gid", gid.encode()), ("saga-signal", signal.encode())]


@pytest.mark.parametrize("word", ["!cancel", "!resume", "!skip", "!retry", "!other"])
async def test_a_reply_is_no_word_of_an_operator_s(coordinator, word):
    """Whoever may write to a topic could call sagas off otherwise, and no audit would know."""
    handle = await coordinator.start(ORDER)
    with pytest.raises(InvalidDefinition, match="does not begin with '!'"):
        await coordinator.sagas.send(handle.gid, word, {"by": "ada", "reason": "by a reply", "step": "charge"})
    assert await deliver_reply(coordinator, address(handle.gid), b"5")
    assert (await handle.result()).outputs["charge"] == 5


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
