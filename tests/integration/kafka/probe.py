"""A second pair of eyes on a cluster: raw requests of our own making, and what a `read_committed` consumer sees."""

import asyncio
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from coordinator.errors import Unavailable
from coordinator.ports import Message
from coordinator.protocol.model import BranchName, Gid, Prepared, Recipe, Vote
from participants import Kafka
from participants.kafka.branch import KafkaBranch
from participants.kafka.cluster import Cluster
from participants.kafka.codec import (
    DescribeTransactions,
    EndTxn,
    InitProducerId,
    Producer,
    TransactionState,
    decode_describe_transactions,
    decode_producer,
)
from participants.kafka.codec_cluster import Fetch, Fetched, decode_fetch
from participants.kafka.codes import Code
from participants.kafka.connection import Address, Security

GID = Gid("test")
NAME = BranchName("kafka")
_PASSING = frozenset({Code.CONCURRENT_TRANSACTIONS, Code.COORDINATOR_LOAD_IN_PROGRESS, Code.NOT_COORDINATOR})
_NOT_YET = frozenset({Code.UNKNOWN_TOPIC_OR_PARTITION, Code.LEADER_NOT_AVAILABLE, Code.NOT_LEADER_OR_FOLLOWER})


def message(topic: str, value: bytes, **options) -> Message:
    """A message whose id is its value."""
    return Message(id=value[:50].decode(), participant=NAME, topic=topic, value=value, **options)


async def voted(kafka: Kafka, *messages: Message, recipe: Recipe = Recipe.COMMIT_RECORD) -> Prepared:
    """A branch that has voted yes on *messages*."""
    session = await kafka.begin(GID, recipe=recipe)
    for each in messages:
        session.publish(each)
    vote, evidence = await session.vote(20)
    assert vote is Vote.YES
    return Prepared(gid=GID, branch=NAME, evidence=evidence)


def branch_of(prepared: Prepared) -> KafkaBranch:
    """The branch as the Kafka side knows it."""
    branch = KafkaBranch.of(prepared.evidence)
    assert branch is not None
    return branch


@dataclass(slots=True)
class Probe:
    """Raw questions to one cluster, on connections of its own."""

    bootstrap: str
    cluster: Cluster = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.bootstrap, Security(), lanes=1)

    async def coordinator(self, transactional_id: str) -> Address:
        """Where the id is coordinated; a cluster that has never seen a transaction takes a moment."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await self.cluster.coordinator(transactional_id)
                except Unavailable:
                    await asyncio.sleep(0.05)

    async def end(self, branch: KafkaBranch, *, commit: bool) -> Code:
        """The broker's definite reply to `EndTxn` with the branch's own triple."""
        address = await self.coordinator(branch.transactional_id)
        request = EndTxn(branch.transactional_id, branch.producer, commit)
        async with asyncio.timeout(10):
            while True:
                code, _ = await self.cluster.ask(address, request, decode_producer)
                if code not in _PASSING:
                    return Code(code)
                await asyncio.sleep(0.005)

    async def initialise(self, transactional_id: str) -> Producer:
        """What a foreigner does who takes the id for its own: fences, and aborts what is open."""
        address = await self.coordinator(transactional_id)
        async with asyncio.timeout(10):
            while True:
                code, producer = await self.cluster.ask(
                    address, InitProducerId(transactional_id, 60_000), decode_producer
                )
                if code not in _PASSING:
                    assert code == Code.NONE, code
                    return producer
                await asyncio.sleep(0.005)

    async def state(self, transactional_id: str) -> TransactionState:
        """What the coordinating broker knows about the id."""
        address = await self.coordinator(transactional_id)
        return await self.cluster.ask(address, DescribeTransactions(transactional_id), decode_describe_transactions)

    async def fetched(self, topic: str, partition: int = 0, *, offset: int = 0) -> Fetched:
        """A `read_committed` fetch of one partition; of a new topic, once its broker knows that it leads it."""
        async with asyncio.timeout(10):
            while True:
                leaders = await self.cluster.partitions(topic)
                found = await self.cluster.ask(leaders[partition], Fetch(topic, partition, offset), decode_fetch)
                if found.code not in _NOT_YET:
                    return found
                await asyncio.sleep(0.05)

    async def is_open(self, topic: str, partition: int = 0) -> bool:
        """Whether a transaction holds the partition's readers back."""
        fetched = await self.fetched(topic, partition)
        assert fetched.code == Code.NONE, fetched
        return fetched.last_stable_offset < fetched.high_watermark

    async def settled(self, topic: str, *partitions: int) -> None:
        """Wait until no transaction is open: the last stable offset is the high watermark."""
        async with asyncio.timeout(15):
            for partition in partitions or (0,):
                while await self.is_open(topic, partition):  # noqa: ASYNC110 - a broker tells nobody.
                    await asyncio.sleep(0.01)

    async def values(self, topic: str, *partitions: int) -> list[bytes]:
        """The values that a `read_committed` consumer sees, once nothing is open any more."""
        return [record.value for record in await self.records(topic, *partitions)]

    async def records(self, topic: str, *partitions: int) -> list:
        """The records that a `read_committed` consumer sees, once nothing is open any more."""
        await self.settled(topic, *partitions)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            seen = []
            for partition in partitions or (0,):
                where = TopicPartition(topic, partition)
                end = (await self.fetched(topic, partition)).last_stable_offset
                consumer.assign([where])
                await consumer.seek_to_beginning(where)
                async with asyncio.timeout(20):
                    while await consumer.position(where) < end:
                        batches = await consumer.getmany(where, timeout_ms=50)
                        seen += [record for batch in batches.values() for record in batch]
            return seen
        finally:
            await consumer.stop()
