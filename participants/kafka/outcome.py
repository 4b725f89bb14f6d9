"""How a Kafka transaction ended: asked with its own (id, producer id, epoch), as often as it takes.

`EndTxn` v5 answers the same question the same way however often it is repeated:

    NONE                                          ended as asked, now or before
    CONCURRENT_TRANSACTIONS                       the markers are being written: ask again
    NOT_COORDINATOR, LOADING, no answer           unknown: find the coordinator and ask again
    INVALID_TXN_STATE                             it ended the other way, as far as this broker knows
    PRODUCER_FENCED, INVALID_PRODUCER_EPOCH       somebody initialised the id, or its next transaction has begun
    INVALID_PRODUCER_ID_MAPPING                   the id has expired

The last three prove nothing about the outcome, so it is read back from the partition: a fetch from the transaction's
first record says whether it is stable, and whether its producer's transaction there was aborted. (A coordinator that
was replaced while it stood still says INVALID_TXN_STATE of a transaction that began behind its back.)
(`docs/decisions/0003-the-kafka-codec.md` has what real brokers answered.)
"""

import asyncio
import struct
from dataclasses import dataclass

from coordinator import limits
from coordinator.errors import Disconnected, InDoubt, Misconfigured, Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.protocol.model import Ending
from participants.kafka.branch import KafkaBranch
from participants.kafka.cluster import Cluster
from participants.kafka.codec import EndTxn, Producer, decode_producer
from participants.kafka.codec_cluster import Fetch, Fetched, decode_fetch
from participants.kafka.codes import Code, code_name

_ASK_AGAIN = frozenset(
    {
        Code.CONCURRENT_TRANSACTIONS,
        Code.COORDINATOR_LOAD_IN_PROGRESS,
        Code.COORDINATOR_NOT_AVAILABLE,
        Code.NOT_COORDINATOR,
        Code.REQUEST_TIMED_OUT,
        Code.UNKNOWN_SERVER_ERROR,
    }
)
_SAYS_NOTHING = frozenset(
    {Code.PRODUCER_FENCED, Code.INVALID_PRODUCER_EPOCH, Code.INVALID_PRODUCER_ID_MAPPING},
)
# How long the partition is looked at before the coordinator is asked again.
_LOOK_WITHIN_S = 0.2
# Base offset, length, leader epoch, magic, checksum, attributes, last offset delta, two times, producer id, its epoch.
_BATCH_HEADER = struct.Struct(">qiibIhiqqqh")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a transaction ended, and the producer for the id's next one, where the broker said it."""

    ending: Ending
    following: Producer | None = None


async def end(cluster: Cluster, branch: KafkaBranch, *, commit: bool, within_s: float) -> Ended:
    """End the transaction and say how it ended: the truth, whatever was asked.

    Raises `InDoubt` when nobody could tell within *within_s* seconds; `Misconfigured` when we may not ask.
    """
    request = EndTxn(branch.transactional_id, branch.producer, commit)
    until = asyncio.get_running_loop().time() + within_s
    while True:
        code, following = await definite_answer(cluster, request, within_s=within_s)
        if code == Code.NONE:
            return Ended(Ending.COMMITTED if commit else Ending.ABORTED, following)
        if code in _SAYS_NOTHING:
            return Ended(await read_back(cluster, branch, within_s=within_s))
        try:
            ending = await read_back(cluster, branch, within_s=_LOOK_WITHIN_S)
        except InDoubt:
            if asyncio.get_running_loop().time() > until:
                raise
        else:
            if ending is not Ending.HAZARD or asyncio.get_running_loop().time() > until:
                return Ended(ending)
        cluster.forget(transactional_id=branch.transactional_id)  # Still open: whoever coordinates it now knows more.


async def definite_answer(cluster: Cluster, request: EndTxn, *, within_s: float) -> tuple[int, Producer]:
    """Ask until the answer is NONE (with the id's next producer), INVALID_TXN_STATE, or one that says nothing.

    Raises `InDoubt` after *within_s* seconds without any of them; `Misconfigured` when we may not ask.
    """
    until = asyncio.get_running_loop().time() + within_s
    while True:
        code, following = await _ask(cluster, request)
        if code in (Code.NONE, Code.INVALID_TXN_STATE) or code in _SAYS_NOTHING:
            return code, following
        if code not in _ASK_AGAIN:
            raise Misconfigured(f"Kafka refuses to end {request.transactional_id}: {code_name(code)}")
        if asyncio.get_running_loop().time() > until:
            raise InDoubt(f"no definite answer about {request.transactional_id} in {within_s} s: {code_name(code)}")
        await asyncio.sleep(limits.KAFKA_RETRY_PAUSE_S / 4)


async def _ask(cluster: Cluster, request: EndTxn) -> tuple[int, Producer]:
    """One question to the coordinator; no answer is an answer that says "ask again"."""
    name = request.transactional_id
    try:
        address = await cluster.coordinator(name)
        code, following = await boundary(
            "kafka.end.commit" if request.commit else "kafka.end.abort",
            lambda: cluster.ask(address, request, decode_producer),
            transactional_id=name,
        )
    except (Disconnected, Unavailable, OSError, TimeoutError):
        cluster.forget(transactional_id=name)
        await asyncio.sleep(limits.KAFKA_RETRY_PAUSE_S)
        return Code.UNKNOWN_SERVER_ERROR, request.producer
    if code in _ASK_AGAIN and code != Code.CONCURRENT_TRANSACTIONS:
        cluster.forget(transactional_id=name)
    return code, following


async def read_back(cluster: Cluster, branch: KafkaBranch, *, within_s: float) -> Ending:
    """Read the transaction's outcome from its first record's partition.

    HAZARD where the log does not reach back to it any more, or its topic is gone. Raises `InDoubt` while the
    transaction is still open or its partition does not answer, `Misconfigured` where we may not read.
    """
    until = asyncio.get_running_loop().time() + within_s
    failure: Exception | None = None
    while asyncio.get_running_loop().time() <= until:
        try:
            fetched = await _fetch(cluster, branch)
        except Misconfigured:
            raise
        except (Disconnected, Refused, Unavailable, OSError, TimeoutError) as unanswered:
            failure = unanswered
        else:
            failure = None
            if fetched.code == Code.TOPIC_AUTHORIZATION_FAILED:
                raise Misconfigured(f"not authorised to read {branch.topic!r}, where the outcome stands: grant READ")
            if fetched.code == Code.OFFSET_OUT_OF_RANGE:  # Or its leader stood still, and does not know it yet.
                failure = Refused(f"{branch.topic}-{branch.partition} has no offset {branch.offset}")
            if fetched.code == Code.NONE and fetched.last_stable_offset > branch.offset:
                return _outcome(fetched, branch)
        cluster.forget(topic=branch.topic)
        await asyncio.sleep(limits.KAFKA_RETRY_PAUSE_S)
    if isinstance(failure, Refused):
        return Ending.HAZARD  # A broker that has just started may not know the topic yet, but not for this long.
    raise InDoubt(f"the outcome of {branch.transactional_id} is not stable yet") from failure


async def _fetch(cluster: Cluster, branch: KafkaBranch) -> Fetched:
    leaders = await cluster.partitions(branch.topic)
    leader = leaders.get(branch.partition)
    if leader is None:
        raise Unavailable(f"{branch.topic}-{branch.partition} has no leader")
    request = Fetch(branch.topic, branch.partition, branch.offset)
    return await boundary(
        "kafka.read_back",
        lambda: cluster.ask(leader, request, decode_fetch),
        transactional_id=branch.transactional_id,
    )


def _outcome(fetched: Fetched, branch: KafkaBranch) -> Ending:
    """What a stable fetch says: the broker lists the transactions that were aborted in what it returns."""
    if (branch.producer.producer_id, branch.offset) in fetched.aborted:
        return Ending.ABORTED
    if fetched.log_start_offset > branch.offset or len(fetched.records) < _BATCH_HEADER.size:
        return Ending.HAZARD
    first, *_, producer_id, epoch = _BATCH_HEADER.unpack_from(fetched.records)
    ours = first == branch.offset and Producer(producer_id, epoch) == branch.producer
    return Ending.COMMITTED if ours else Ending.HAZARD
