"""What a Tcc makes of what its functions return and raise."""

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from functools import partial

import pytest

from coordinator import Coordinator, InDoubt, Refused, Settings, Unavailable
from coordinator.errors import InvalidDefinition, TurnedAway
from coordinator.gids import new_gid
from coordinator.ports import AlertKind
from coordinator.protocol.model import BranchName, Ending, Prepared, Recipe
from examples.social_post.observer import until
from participants.tcc import Tcc

GID = new_gid("unan", datetime(2026, 11, 1, tzinfo=UTC), os.urandom(16))
PREPARED = Prepared(gid=GID, branch=BranchName("stock"), term=3)
SETTINGS = Settings(lease_s=2.0, recovery_s=0.1)


async def nothing(*arguments):
    return None


def answering(value):
    async def answer(*arguments):
        if isinstance(value, BaseException):
            raise value
        return value

    return answer


async def awaits_what_is_cancelled(*arguments):
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def hangs(*arguments):
    await asyncio.Event().wait()


def tcc(attempt=nothing, confirm=nothing, cancel=nothing, pending=None, call_within_s=1.0):
    made = Tcc(attempt, confirm=confirm, cancel=cancel, pending=pending, call_within_s=call_within_s)
    made.name = BranchName("stock")
    return made


async def test_functions_are_told_what_they_have_a_parameter_for():
    told = []

    async def attempt(gid, what, branch):
        told.append((gid, what, branch))

    async def confirm(gid, term, branch):
        told.append((gid, term, branch))

    async def cancel(gid, *, branch):
        told.append((gid, branch))

    async def pending(branch, prefix):
        return told.append((branch, prefix)) or []

    stock = tcc(attempt, confirm, cancel, pending)
    session = await stock.begin(GID, recipe=Recipe.TWO_PHASE)
    session.reserve("apple")
    await session.vote(1.0)
    await stock.commit(PREPARED)
    await stock.abort(PREPARED)
    await stock.in_doubt()
    assert told == [(GID, "apple", "stock"), (GID, 3, "stock"), (GID, "stock"), ("stock", "unan:")]


async def test_what_a_function_calls_its_own_is_left_to_it():
    """A parameter that is given by its place, and one that was bound before."""
    told = []

    async def attempt(branch, what):
        told.append((branch, what))

    async def confirm(gid, branch):
        told.append((gid, branch))

    stock = tcc(attempt, partial(confirm, branch="mine"))
    session = await stock.begin(GID, recipe=Recipe.TWO_PHASE)
    session.reserve("apple")
    await session.vote(1.0)
    await stock.commit(PREPARED)
    assert told == [(GID, "apple"), (GID, "mine")]


@pytest.mark.parametrize("returned", [True, "UPDATE 1", "committed", {}, 0])
async def test_what_is_no_ending_is_not_taken_for_one(returned):
    """A function that returns what its driver said would have that journalled as how the branch ended."""
    stock = tcc(confirm=answering(returned), cancel=answering(returned))
    for end in (stock.commit, stock.abort):
        with pytest.raises(InvalidDefinition, match="None or an Ending"):
            await end(PREPARED)


async def test_an_ending_is_passed_on():
    stock = tcc(confirm=answering(Ending.ABORTED))
    assert (await stock.commit(PREPARED), await stock.abort(PREPARED)) == (Ending.ABORTED, Ending.ABORTED)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (answering(Refused("no such route")), Refused),
        (answering(Unavailable("later")), Unavailable),
        (answering(KeyError("gid")), InDoubt),
        (hangs, InDoubt),
        (awaits_what_is_cancelled, InDoubt),
    ],
)
async def test_what_an_end_raises(end, kind):
    stock = tcc(confirm=end, cancel=end, call_within_s=0.05)
    for call in (stock.commit, stock.abort):
        with pytest.raises(kind) as raised:
            await call(PREPARED)
        assert type(raised.value) is kind


@pytest.mark.parametrize("pending", [answering(KeyError("x")), answering([("a",)]), hangs, awaits_what_is_cancelled])
async def test_a_look_at_what_is_pending_ends_in_time_and_says_that_nothing_is_known(pending):
    """A sweep goes on to the next participant then."""
    with pytest.raises(InDoubt, match="stock did not answer"):
        async with asyncio.timeout(5):
            await tcc(pending=pending, call_within_s=0.05).in_doubt()


async def test_a_call_that_is_cancelled_itself_is_cancelled():
    calling = asyncio.create_task(tcc(confirm=hangs, call_within_s=60.0).commit(PREPARED))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_ids_that_nobody_made_are_passed_over_with_one_warning(caplog):
    """Of such an id no journal can be asked; and it must not keep the others from being ended."""
    strange = ["unan:not-a-ulid", "unan:" + "Z" * 26, "unan:\0"]
    listed = [(gid, 99.0) for gid in (*strange, GID, "other:" + GID.partition(":")[2])]
    found = await tcc(pending=answering(listed)).in_doubt()
    assert [each.prepared.gid for each in found] == [GID]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "3 ids" in caplog.text


async def test_a_cancellation_of_a_doubtful_try_that_is_refused_leaves_it_open_and_is_made_again():
    """Nothing says that it is not reserved; whoever discards the share may do it again."""
    answers = [Refused("no such route"), None]

    async def cancel(gid):
        if answer := answers.pop(0):
            raise answer

    session = await tcc(attempt=answering(TimeoutError()), cancel=cancel).begin(GID, recipe=Recipe.TWO_PHASE)
    session.reserve("apple")
    with pytest.raises(InDoubt):
        await session.vote(1.0)
    with pytest.raises(Refused, match="no such route"):
        await session.discard()
    await session.discard()
    await session.discard()
    assert not answers


@pytest.mark.parametrize("outcome", ["commit", "abort"])
async def test_an_end_that_is_refused_is_told_to_people_and_asked_for_again(outcome):
    """A route that is gone, a key that was rotated: whoever waits for the reservation waits for a person."""
    refuses = [True]

    async def end(gid):
        if refuses:
            raise TurnedAway("stock answered 404: no such route")

    async def no(gid, what):
        raise Refused("no")

    participants = {
        "stock": Tcc(nothing, confirm=end, cancel=end),
        "judge": Tcc(nothing, confirm=nothing, cancel=nothing),
    }
    if outcome == "abort":
        participants["judge"].attempt = no
    journal = f"memory://{os.urandom(4).hex()}"
    async with Coordinator(journal=journal, participants=participants, settings=SETTINGS) as coordinator:
        alerts = coordinator.engine.driver.performer.alerts

        async def order():
            async with coordinator.transaction("order", deadline_s=3.0) as transaction:
                for name in participants:
                    (await transaction.enlist(name)).reserve("apple")

        ordering = asyncio.create_task(order())
        assert await until(alerts.open_alerts, 10.0)
        (alert,) = await alerts.open_alerts()
        assert (alert.kind, "no such route" in alert.detail) == (AlertKind.REFUSED, True)
        refuses.clear()
        with contextlib.suppress(Refused):
            await ordering
    assert ordering.done()
