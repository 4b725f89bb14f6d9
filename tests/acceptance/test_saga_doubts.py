"""What is not as it should be, and must not be made worse: doubt, steps that were skipped, values of another type."""

import asyncio
import secrets
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, ConfigDict, computed_field
from pydantic.alias_generators import to_camel

from coordinator import Coordinator, InDoubt, InvalidDefinition, KeyReused, Refused, Unavailable, limits
from coordinator.errors import Compensated
from coordinator.protocol.saga import Phase
from coordinator.sagas.definition import Saga
from coordinator.sagas.steps import await_signal, sleep, step
from tests.acceptance.test_sagas import QUICK, SETTINGS, coordinator, journal, phase, world

__all__ = ["coordinator", "journal", "world"]


async def test_a_key_that_cannot_be_stored_is_refused(coordinator, world):
    for key in ("a\0b", "\ud800", secrets.token_hex(1_001)):
        with pytest.raises(InvalidDefinition, match="a key is text"):
            await coordinator.start(world.saga(), 1, key=key)
    handle = await coordinator.start(world.saga(), 1, key=secrets.token_hex(1_000))
    assert (await handle.result()).completed


async def test_what_one_attempt_may_have_done_no_later_one_takes_back_by_doing_nothing(coordinator, world):
    async def pay() -> None:
        raise ConnectionResetError if not world.did else Unavailable("down")

    async def failing() -> None:
        try:
            await pay()
        finally:
            world.did.append("pay")

    async def refund() -> None:
        await world.act("refund")

    saga = Saga("doubt", step(failing, compensate=refund, on_unknown="retry", retry=QUICK))
    with pytest.raises(Compensated):
        await coordinator.run(saga)
    assert world.did == ["pay", "pay", "pay", "refund"]


async def test_what_comes_after_a_skipped_step_is_given_nothing_and_goes_on(coordinator, world):
    """And a compensation whose own step's output nobody knows is given None for it."""

    async def decide() -> None:
        await world.act("decide")

    async def tell(decide: None) -> int:
        raise Refused("no such address")

    async def note(tell: int | None) -> str:
        return f"told {tell}"

    saga = Saga("skips", step(decide, pivot=True, on_unknown="retry"), step(tell, retry=QUICK), step(note))
    handle = await coordinator.start(saga)
    await phase(handle, Phase.PARKED)
    await handle.skip("tell", "told on the phone")
    await phase(handle, Phase.COMPLETED)
    assert (await handle.outcome()).outputs["note"] == "told None"
    world.raises["reserve"] = [ConnectionResetError()]
    with pytest.raises(Compensated):
        await coordinator.run(world.saga(), 1)
    assert world.did == ["decide", "release"]


async def test_a_step_that_something_else_cancelled_has_failed_and_is_not_forgotten(coordinator, world):
    async def torn() -> None:
        world.did.append("torn")
        awaited = asyncio.create_task(asyncio.sleep(60))
        awaited.cancel()
        await awaited

    async def undo() -> None:
        await world.act("undo")

    with pytest.raises(Compensated, match="was cancelled"):
        await coordinator.run(Saga("torn", step(torn, compensate=undo)))
    assert world.did == ["torn", "undo"]


async def test_a_key_that_stands_for_a_saga_of_an_earlier_version_finds_it(journal, world):
    """Also where it is asked for with the later one; where nobody has the earlier one it is in doubt."""

    async def greet(go: str) -> str:
        return f"hello {go}"

    old = Saga("visit", await_signal("go", of=str), step(greet), version="1")
    new = Saga("visit", await_signal("come", of=int), version="2")
    async with Coordinator(journal=journal, sagas=[old]) as before:
        await before.start(old, key="ann")
    async with Coordinator(journal=journal, sagas=[new]) as later:
        with pytest.raises(InDoubt, match=r"is pinned to visit@1#\w+, and this process has only visit@2#"):
            await later.run(new, key="ann")
    async with Coordinator(journal=journal, sagas=[old, new]) as both:
        with pytest.raises(InvalidDefinition, match=r"visit@1 waits for no signal 'come' \(it waits for: go\)"):
            await both.signal(new, "ann", "come", 1)
        await both.signal(new, "ann", "go", "ann")
        assert (await both.run(new, key="ann")).outputs["greet"] == "hello ann"
        handle = await both.start(new, key="ann")
        assert (await handle.result()).completed
        with pytest.raises(Refused, match="visit@1 has no step 'come'"):
            await handle.skip("come", "it is of the other version")


async def test_what_was_kept_as_another_type_waits_for_code_that_can_read_it_and_holds_up_nobody(
    journal, world, monkeypatch
):
    """Also where that code runs beside what cannot read it; and an operator is told, once."""
    monkeypatch.setattr(limits, "SAGA_UNREADABLE_S", 0.5)

    async def one() -> int:
        return 1

    async def many() -> list[int]:
        return [1]

    def saga(first):
        return Saga("typed", step(first, name="first"), sleep("nap", 0.3), version="1")

    async with Coordinator(journal=journal, sagas=[saga(one)], settings=SETTINGS) as before:
        await before.start(saga(one), key="1")
    async with Coordinator(journal=journal, sagas=[saga(many)], settings=SETTINGS) as changed:
        with pytest.raises(InDoubt, match="its 'first' was kept as another type than typed@1 has by now"):
            await (await changed.attach(saga(many), "1")).result()
        assert (await changed.run(saga(many))).completed
        alerts = changed.sagas.engine.alerts
        while not await alerts.open_alerts():  # noqa: ASYNC110 - it awakes here within a second.
            await asyncio.sleep(0.05)
        assert (await changed.run(saga(many))).completed
        async with Coordinator(journal=journal, sagas=[saga(one)], settings=SETTINGS) as again:
            async with asyncio.timeout(20):
                assert (await again.run(saga(one), key="1")).outputs["first"] == 1
        (alert,) = await alerts.open_alerts()
        assert (alert.kind, "was kept as another type than typed@1 has" in alert.detail) == ("unreadable-saga", True)


async def test_equal_inputs_are_one_however_they_are_written(coordinator, world):
    async def pack(request: dict[str, set[str]]) -> int:
        return len(request)

    saga = Saga("pack", step(pack))
    begun = await coordinator.start(saga, {"a": {"x", "y", "z"}, "b": set()}, key="1")
    again = await coordinator.start(saga, {"b": [], "a": ["z", "y", "x"]}, key="1")
    assert again.gid == begun.gid
    with pytest.raises(KeyReused):
        await coordinator.start(saga, {"a": {"x", "y"}, "b": set()}, key="1")


async def test_what_a_database_has_no_room_for_is_said_all_the_same(coordinator, world):
    async def nul() -> str:
        return "a\0b"

    async def fail() -> None:
        raise RuntimeError("no\0way \ud800")

    async def refuse(nul: str) -> None:
        raise Refused(nul)

    saga = Saga("nul", step(nul, compensate=fail, undo_retry=QUICK), sleep("nap", 0.05), step(refuse))
    handle = await coordinator.start(saga)
    await phase(handle, Phase.PARKED, "nul: its compensation failed 3 times: RuntimeError: no?way ?")
    assert (await handle.outcome()).outputs["nul"] == "a\0b"


async def test_what_is_too_large_is_refused(coordinator, world):
    async def much() -> str:
        return "x" * 2_000_000

    with pytest.raises(Compensated, match="an output of 2000002 bytes is above the limit of 1048576"):
        await coordinator.run(Saga("much", step(much, retry=QUICK)))
    handle = await coordinator.start(Saga("deaf", await_signal("go")))
    with pytest.raises(Refused, match="a signal of 2000002 bytes is above the limit"):
        await handle.signal("go", "x" * 2_000_000)


async def test_an_input_that_nobody_could_read_again_is_refused(coordinator, world):
    async def measure(request: float) -> int:
        return 1

    with pytest.raises(InvalidDefinition, match="the input of saga 'measure' is of another type"):
        await coordinator.start(Saga("measure", step(measure)), float("inf"))


class Strict(BaseModel):
    """Takes no text for a time, but out of JSON."""

    model_config = ConfigDict(strict=True)
    at: datetime


async def test_an_output_is_read_again_as_it_was_written_and_what_nobody_could_read_is_not_written(coordinator, world):
    async def stamp() -> Strict:
        return Strict(at=datetime(2026, 1, 2, tzinfo=UTC))

    async def year(stamp: Strict) -> int:
        return stamp.at.year

    outcome = await coordinator.run(Saga("strict", step(stamp), sleep("nap", 0.05), step(year)))
    assert outcome.outputs["year"] == 2026

    class Named(BaseModel):
        """Known to others by an alias, and with something that it works out."""

        model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
        account_id: int

        @computed_field
        def twice(self) -> int:
            return 2 * self.account_id

    async def rename(request: Named) -> Named:
        return Named(accountId=request.account_id + 1)

    async def told(request: Named, rename: Named) -> int:
        return request.account_id + rename.account_id

    outcome = await coordinator.run(Saga("named", step(rename), sleep("nap", 0.05), step(told)), {"accountId": 3})
    assert outcome.outputs["told"] == 7

    async def lies() -> int:
        return "many"  # type: ignore[return-value]  # What this is about.

    with pytest.raises(Compensated, match="lies"):
        await coordinator.run(Saga("lying", step(lies, retry=QUICK)))
