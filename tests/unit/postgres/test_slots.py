"""Slots for prepared transactions: never more at once than there is room for, and none is ever lost."""

import asyncio

import pytest

from coordinator import limits
from coordinator.errors import Overloaded
from coordinator.protocol.model import BranchName, Gid
from participants.postgres.slots import Slots


def slots(server_has):
    return Slots(BranchName("db"), server_has)


@pytest.mark.parametrize(("server_has", "ours"), [(0, 0), (1, 1), (4, 3), (10, 8), (200, 160)])
async def test_a_share_of_the_servers_slots_is_ours(server_has, ours, monkeypatch):
    """80 %, but never none where the server has any."""
    monkeypatch.setattr(limits, "PARTICIPANT_CALL_S", 0.01)
    held = slots(server_has)
    for number in range(ours):
        await held.take(Gid(str(number)))
    with pytest.raises(Overloaded, match="max_prepared_transactions"):
        await held.take(Gid("one too many"))


async def test_leaving_twice_frees_one_slot(monkeypatch):
    """A second phase may be repeated, and an abort may be of nothing."""
    monkeypatch.setattr(limits, "PARTICIPANT_CALL_S", 0.01)
    held = slots(1)
    await held.take(Gid("a"))
    for gid in ("a", "a", "never here"):
        held.leave(Gid(gid))
    await held.take(Gid("b"))
    with pytest.raises(Overloaded):
        await held.take(Gid("c"))


async def test_who_waits_is_let_in_when_another_leaves():
    """In the order of asking."""
    held = slots(1)
    await held.take(Gid("a"))
    waiting = [asyncio.ensure_future(held.take(Gid(gid))) for gid in ("b", "c")]
    await asyncio.sleep(0)
    held.leave(Gid("a"))
    await waiting[0]
    assert not waiting[1].done()
    held.leave(Gid("b"))
    await waiting[1]


async def test_only_what_was_prepared_before_a_look_can_have_been_finished_by_others():
    """A transaction that is prepared during the look is not in it, and is not finished."""
    held = slots(10)
    for gid in ("finished", "listed", "open", "prepared during the look"):
        await held.take(Gid(gid))
    for gid in ("finished", "listed"):
        held.prepared(Gid(gid))
    believed = held.prepared_now()
    held.prepared(Gid("prepared during the look"))
    held.leave_finished(believed, {"listed"})
    assert held.prepared_now() == ["listed", "prepared during the look"]
