"""Timeouts that share a timer behave as `asyncio.timeout` does."""

import asyncio

import pytest

from coordinator.timeouts import Timeouts


@pytest.fixture
def timeouts():
    """Of one engine."""
    return Timeouts()


async def test_a_block_that_takes_too_long_ends_with_a_timeout_and_its_task_goes_on(timeouts):
    """Each in its time, although the timer was set for the first; and what ends in time is left alone."""

    async def wait(seconds, within_s):
        began_s = asyncio.get_running_loop().time()
        try:
            with timeouts.within(within_s):
                await asyncio.sleep(seconds)
        except TimeoutError:
            await asyncio.sleep(0)
            assert asyncio.current_task().cancelling() == 0
            return round(asyncio.get_running_loop().time() - began_s, 1)
        return "in time"

    async def later(pause_s, seconds, within_s):
        await asyncio.sleep(pause_s)
        return await wait(seconds, within_s)

    found = await asyncio.gather(
        wait(0, 0.3), later(0.1, 5, 0.3), later(0.2, 5, 0.3), later(0.25, 0.1, 0.3), wait(5, 0.1)
    )
    assert found == ["in time", 0.3, 0.3, "in time", 0.1]


async def test_a_cancellation_by_others_stays_one(timeouts):
    """Also where the time is over in the same moment."""

    async def wait():
        with timeouts.within(0.05):
            await asyncio.sleep(5)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def wait_and_be_cancelled():
        me = asyncio.current_task()
        with timeouts.within(0.05):
            asyncio.get_running_loop().call_later(0.05, me.cancel)
            await asyncio.sleep(5)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait_and_be_cancelled())


async def test_what_a_block_raises_goes_through(timeouts):
    """And nothing of it is left to expire later."""
    with pytest.raises(KeyError), timeouts.within(0.02):
        raise KeyError
    await asyncio.sleep(0.05)


async def test_blocks_of_one_task_nest(timeouts):
    """The inner one's time is over, the outer one's is not."""
    with timeouts.within(1):
        with pytest.raises(TimeoutError), timeouts.within(0.02):
            await asyncio.sleep(5)
        await asyncio.sleep(0)
