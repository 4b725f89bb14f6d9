"""What an operator is told who calls a saga off: that it turns back, or why nothing comes of it."""

import asyncio

import pytest

from coordinator import Compensated, Coordinator, Refused, cli_sagas
from coordinator.sagas import Saga, await_signal, step
from tests.integration.operating.conftest import SETTINGS
from tests.integration.postgres.branches import until
from tests.integration.postgres.conftest import query

SAID = ("--yes", "--reason", "ops-1")
WORDS = "SELECT count(*) FROM unanimity.saga_signals WHERE name = '!cancel'"


class Shop:
    """Pays when it may, which is the pivot, and then waits until it is shipped."""

    def __init__(self):
        self.paying, self.may_pay = asyncio.Event(), asyncio.Event()

    def saga(self):
        async def reserve() -> None:
            pass

        async def release() -> None:
            pass

        async def pay() -> None:
            self.paying.set()
            await self.may_pay.wait()

        return Saga(
            "paid",
            step(reserve, compensate=release),
            await_signal("go", after="reserve"),
            step(pay, pivot=True),
            await_signal("shipped"),
            version="1",
        )


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
async def handle(database, shop):
    """One that waits before its pivot."""
    async with Coordinator(journal=database, sagas=[shop.saga()], settings=SETTINGS) as coordinator:
        begun = await coordinator.start(shop.saga(), key="order-1")
        await until(lambda: query(database, "SELECT owner = '' FROM unanimity.sagas"))
        yield begun


async def test_before_its_pivot_it_turns_back_and_that_is_said(operator, handle):
    said = await operator.run("sagas", "cancel", handle.gid, *SAID)
    assert (said.exit_code, "it has turned back" in said.stderr) == (0, True), said.output
    with pytest.raises(Compensated, match="ops-1"):
        await handle.result()


async def test_behind_its_pivot_nothing_is_said_to_it_and_it_goes_on(operator, database, handle, shop):
    """It is not parked, and no definition is at hand: a process that has it has told where its pivot is."""
    shop.may_pay.set()
    await handle.signal("go")
    await until(lambda: query(database, "SELECT count(*) = 1 FROM unanimity.saga_events WHERE event->>'s' = 'pay'"))
    said = await operator.run("sagas", "cancel", handle.gid, *SAID)
    assert said.exit_code == 1
    assert f"{handle.gid} cannot be called off: its pivot, pay, is done, and it only goes forward" in said.stderr
    with pytest.raises(Refused, match="its pivot is done, and it only goes forward"):
        await handle.cancel("no longer wanted")
    assert await query(database, WORDS) == 0
    await handle.signal("shipped")
    assert (await handle.result()).completed


async def test_where_its_pivot_is_done_before_the_word_is_heard_that_is_said(operator, database, handle, shop):
    """It is called when the word comes, and nobody can hold it."""
    await handle.signal("go")
    await shop.paying.wait()
    said = asyncio.create_task(operator.run("sagas", "cancel", handle.gid, *SAID))
    await until(lambda: query(database, WORDS.replace("count(*)", "count(*) = 1")))
    shop.may_pay.set()
    done = await said
    assert (done.exit_code, "its pivot, pay, is done" in done.stderr) == (1, True), done.output


async def test_while_a_step_is_called_for_long_it_is_said_what_will_come_of_the_word(
    operator, handle, shop, monkeypatch
):
    monkeypatch.setattr(cli_sagas, "_MOVES_WITHIN_S", 0.5)
    await handle.signal("go")
    await shop.paying.wait()
    said = await operator.run("sagas", "cancel", handle.gid, *SAID)
    assert (said.exit_code, "What is being called settles first" in said.stderr) == (0, True), said.output
    shop.may_pay.set()
