"""An id lives longer than its epochs: they end at 32,767, and the broker then gives it another producer id."""

import asyncio

import pytest

from coordinator.protocol.model import Ending
from participants.kafka.codec import InitProducerId, decode_producer
from participants.kafka.codes import Code
from participants.kafka.pool import IdPool
from tests.integration.kafka.probe import branch_of, message, voted

NAME = "aged"
EPOCHS = 2**15 - 1


@pytest.mark.parametrize("commit", [True, False], ids=["commits", "aborts"])
async def test_an_id_goes_on_past_its_last_epoch(kafka, opened, probe, topic, commit):
    """Each transaction around the change of producer ends as asked, is told so again, and is seen or not seen."""
    producer = await _aged(probe, f"{NAME}-{commit}")
    participant, stranger = await opened(kafka.bootstrap), await opened(kafka.bootstrap)
    names = [f"{NAME}-{commit}"]
    participant.ordinary = IdPool(claim=_once(names), initialise=_once(producer), rest_s=0.0)
    ended, ending = [], Ending.COMMITTED if commit else Ending.ABORTED
    for n in range(12):
        prepared = await voted(participant, message(topic, b"%d" % n))
        assert await (participant.commit(prepared) if commit else participant.abort(prepared)) is ending
        assert await (stranger.commit(prepared) if commit else stranger.abort(prepared)) is ending
        assert await (stranger.abort(prepared) if commit else stranger.commit(prepared)) is ending
        ended.append(branch_of(prepared))
    assert max(branch.producer.epoch for branch in ended) >= EPOCHS - 2
    assert len({branch.producer.producer_id for branch in ended}) == 2
    assert len({branch.producer for branch in ended}) == 12
    assert await probe.values(topic) == ([b"%d" % n for n in range(12)] if commit else [])


async def _aged(probe, name: str):
    """The producer of an id that is a few epochs from its last one: initialising moves the epoch, too."""
    producer = await probe.initialise(name)
    address = await probe.coordinator(name)
    while (missing := EPOCHS - 7 - producer.epoch) > 0:
        asked = (
            probe.cluster.ask(address, InitProducerId(name, 60_000), decode_producer) for _ in range(min(missing, 200))
        )
        answers = await asyncio.gather(*asked)
        assert {code for code, _ in answers} == {Code.NONE}
        producer = max((found for _, found in answers), key=lambda found: found.epoch)
    return producer


def _once(answer):
    async def give(_):
        return answer

    return give
