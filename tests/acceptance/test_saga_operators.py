"""What an operator says of a parked saga holds, whatever time has passed while it waited for him."""

import asyncio

import pytest

from coordinator.errors import Compensated
from coordinator.protocol.saga import Phase
from coordinator.sagas import Attempts, Saga, Status, await_signal, sleep, step
from tests.acceptance.test_sagas import coordinator, journal, phase, world

__all__ = ["coordinator", "journal", "world"]

ONCE = Attempts(at_most=1)


def asked(world, *others, **options):
    """reserve -> charge, of which nobody knows until the bank is back; and then *others*."""

    async def reserve() -> None:
        await world.act("reserve")

    async def release() -> None:
        await world.act("release")

    async def charge() -> None:
        await world.act("charge")

    async def refund() -> None:
        await world.act("refund")

    async def charged() -> Status:
        return Status.DONE if world.back else Status.UNKNOWN

    world.raises["charge"], world.back = [ConnectionResetError()], False
    charging = step(charge, compensate=refund, status=charged, undo_retry=ONCE)
    return Saga("asked", step(reserve, compensate=release), charging, *others, **options)


@pytest.mark.parametrize("word", ["skip", "resume"])
async def test_a_deadline_that_passed_while_it_was_parked_does_not_gainsay_the_operator(coordinator, world, word):
    """He looked, and the money was taken. It is so, too, for whoever goes on with the saga later."""

    async def ship() -> None:
        await world.act("ship")

    saga = asked(world, sleep("cool-off", 0.2), step(ship), deadline_s=0.5)
    handle = await coordinator.start(saga)
    await phase(handle, Phase.PARKED)
    await asyncio.sleep(0.7)
    world.back = True
    await (handle.skip("charge", "the money was taken") if word == "skip" else handle.resume("the bank is back"))
    outcome = await handle.result()
    assert (outcome.reason, world.did) == ("", ["reserve", "ship"])


async def test_what_was_waited_for_while_it_was_parked_is_waited_for_once_more(coordinator, world):
    """Nobody could have taken it; and where it does not come again, that is the reason."""
    for number, comes in enumerate((True, False)):
        world.did.clear()
        saga = asked(world, await_signal("paid", within=0.5, after="reserve"), version=str(number))
        handle = await coordinator.start(saga)
        await phase(handle, Phase.PARKED)
        await asyncio.sleep(0.7)
        await handle.skip("charge", "the money was taken")
        if comes:
            await phase(handle, Phase.FORWARD)
            await handle.signal("paid")
            assert (await handle.result()).completed
        else:
            with pytest.raises(Compensated, match="no signal 'paid' within"):
                await handle.result()
        assert world.did == (["reserve"] if comes else ["reserve", "release"])


async def test_what_a_saga_turns_back_for_is_the_reason(coordinator, world):
    """And not what it was parked for before."""
    handle = await coordinator.start(asked(world, sleep("cool-off", 60)))
    await phase(handle, Phase.PARKED)
    await handle.skip("charge", "the money was taken")
    await phase(handle, Phase.FORWARD)
    assert (await handle.outcome()).reason == ""
    await handle.cancel("a change of mind")
    await phase(handle, Phase.COMPENSATED, "a change of mind")


async def test_no_process_is_said_to_be_lost_where_none_was(coordinator, world):
    """It was parked in doubt, and is called off: it is asked about once more, and parked again."""
    handle = await coordinator.start(asked(world))
    await phase(handle, Phase.PARKED, "ConnectionResetError")
    await handle.cancel("a change of mind")
    await phase(handle, Phase.PARKED, "nobody knew it when it was parked")
