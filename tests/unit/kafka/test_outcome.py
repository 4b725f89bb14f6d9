"""What a coordinator remembers is not what happened: only NONE and the partition's log are believed."""

import struct

import pytest

from coordinator.errors import InDoubt
from coordinator.protocol.model import Ending
from participants.kafka.branch import KafkaBranch
from participants.kafka.codec import EndTxn, Producer
from participants.kafka.codec_cluster import Fetched
from participants.kafka.codes import Code
from participants.kafka.outcome import end, read_back

OURS = Producer(7, 3)
BRANCH = KafkaBranch(transactional_id="id", producer=OURS, topic="t", partition=0, offset=10)
RECORD = struct.pack(">qiibIhiqqqh", 10, 100, 0, 2, 0, 0x10, 0, 0, 0, OURS.producer_id, OURS.epoch)
OPEN = Fetched(Code.NONE, high_watermark=11, last_stable_offset=10, log_start_offset=0)
ABORTED = Fetched(Code.NONE, 12, 12, 0, aborted=frozenset({(7, 10)}), records=RECORD)
COMMITTED = Fetched(Code.NONE, 12, 12, 0, records=RECORD)
BEHIND = Fetched(Code.OFFSET_OUT_OF_RANGE, -1, -1, -1)


class Script:
    """A cluster whose coordinator and partition answer as they are told to; the last answer is repeated."""

    def __init__(self, *, ends, fetches):
        self.ends, self.fetches, self.forgotten = list(ends), list(fetches), []

    async def coordinator(self, transactional_id):
        return "coordinator"

    async def partitions(self, topic):
        return {0: "leader"}

    def forget(self, *, transactional_id="", topic=""):
        self.forgotten.append(transactional_id or topic)

    async def ask(self, address, request, decode):
        if isinstance(request, EndTxn):
            return (self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]), Producer(7, 4)
        return self.fetches.pop(0) if len(self.fetches) > 1 else self.fetches[0]


async def test_a_coordinator_that_was_replaced_while_it_stood_still_is_not_believed():
    """It says that there is no such transaction; the partition says that it is open; its successor commits it."""
    script = Script(ends=[Code.INVALID_TXN_STATE, Code.NONE], fetches=[OPEN])
    ended = await end(script, BRANCH, commit=True, within_s=5)
    assert (ended.ending, ended.following) == (Ending.COMMITTED, Producer(7, 4))
    assert "id" in script.forgotten


@pytest.mark.parametrize(("fetched", "ending"), [(ABORTED, Ending.ABORTED), (COMMITTED, Ending.COMMITTED)])
async def test_the_partitions_word_is_believed(fetched, ending):
    """Whatever was asked."""
    for commit in True, False:
        script = Script(ends=[Code.INVALID_TXN_STATE], fetches=[OPEN, fetched])
        assert (await end(script, BRANCH, commit=commit, within_s=5)).ending is ending


async def test_what_stays_open_is_in_doubt():
    """Nobody has ended it, and the coordinator does not: nothing is concluded."""
    with pytest.raises(InDoubt):
        await end(Script(ends=[Code.INVALID_TXN_STATE], fetches=[OPEN]), BRANCH, commit=True, within_s=0.5)


async def test_a_leader_that_does_not_have_the_record_yet_is_asked_again():
    """It stood still while another one took the record; only who never has it makes a hazard."""
    assert await read_back(Script(ends=[], fetches=[BEHIND, COMMITTED]), BRANCH, within_s=5) is Ending.COMMITTED
    assert await read_back(Script(ends=[], fetches=[BEHIND]), BRANCH, within_s=0.1) is Ending.HAZARD
    for code in Code.INVALID_TXN_STATE, Code.PRODUCER_FENCED:
        assert (
            await end(Script(ends=[code], fetches=[BEHIND]), BRANCH, commit=True, within_s=0.5)
        ).ending is Ending.HAZARD
