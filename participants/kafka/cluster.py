"""A cluster: which broker leads a partition, which coordinates a transactional id, and connections to them.

What is known is believed until a broker says otherwise; then it is forgotten and asked for again. A broker works on one
request per connection at a time, so each broker has several connections, and a request takes one that is free.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from coordinator import limits
from coordinator.errors import Disconnected, Misconfigured, Refused, Unavailable
from coordinator.faults.points import boundary
from participants.kafka.codec import EndTxn, InitProducerId, Produce
from participants.kafka.codec_cluster import (
    ApiVersions,
    FindCoordinator,
    Metadata,
    decode_api_versions,
    decode_find_coordinator,
    decode_metadata,
)
from participants.kafka.codes import Code, code_name
from participants.kafka.connection import Address, Connection, Request, Security

Answer = TypeVar("Answer")
# Partitions that were added are seen within this time, and a key then means the same partition in every process.
_TOPIC_BELIEVED_S = 60.0


class Cluster:
    """Connections to one Kafka cluster."""

    def __init__(self, bootstrap: str, security: Security, *, lanes: int = limits.KAFKA_CONNECTIONS) -> None:
        self.bootstrap = [_address(server) for server in bootstrap.split(",")]
        self._security = security
        self._lanes = lanes
        self._connections: dict[Address, list[Connection]] = {}
        self._opening: dict[Address, asyncio.Lock] = {}
        self._coordinators: dict[str, Address] = {}
        self._leaders: dict[str, tuple[float, Mapping[int, Address]]] = {}
        self._brokers: list[Address] = []

    async def check(self) -> int:
        """Refuse brokers without transactions v2; return the highest version of InitProducerId that is served."""
        versions = await self.ask_any(ApiVersions(), decode_api_versions)
        if versions.get(EndTxn.key, 0) < EndTxn.version or versions.get(Produce.key, 0) < Produce.version:
            raise Misconfigured(
                "this Kafka has no transactions v2 (KIP-890), on which atomicity rests here: use Apache Kafka 4.0 or "
                "later, with the feature transaction.version at 2 (kafka-features.sh upgrade)"
            )
        return versions.get(InitProducerId.key, 0)

    async def partitions(self, topic: str) -> Mapping[int, Address]:
        """The leader of every partition of *topic*. Raises `Refused` where there is no such topic."""
        looked_up_s, leaders = self._leaders.get(topic, (-_TOPIC_BELIEVED_S, {}))
        if asyncio.get_running_loop().time() - looked_up_s < _TOPIC_BELIEVED_S:
            return leaders
        return await self._look_up(topic)

    async def coordinator(self, transactional_id: str) -> Address:
        """The broker that coordinates *transactional_id*. Raises `Unavailable` while there is none."""
        known = self._coordinators.get(transactional_id)
        if known is not None:
            return known
        code, address = await boundary(
            "kafka.find_coordinator",
            lambda: self.ask_any(FindCoordinator(transactional_id), decode_find_coordinator),
            transactional_id=transactional_id,
        )
        if code == Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            raise Misconfigured(f"not authorised for the transactional id {transactional_id}: grant DESCRIBE and WRITE")
        if code != Code.NONE:
            raise Unavailable(f"no coordinator for {transactional_id} yet: {code_name(code)}")
        self._coordinators[transactional_id] = address
        return address

    def forget(self, *, transactional_id: str = "", topic: str = "") -> None:
        """Forget where a transactional id or a topic lives: a broker said that it moved, or does not answer."""
        self._coordinators.pop(transactional_id, None)
        self._leaders.pop(topic, None)

    async def ask(self, address: Address, request: Request, decode: Callable[[bytes], Answer]) -> Answer:
        """Ask the broker at *address*. Raises `Unavailable` (not sent) or `Disconnected` (no answer)."""
        connection = self._free(address) or await self._connection(address)
        return await connection.ask(request, decode)

    async def ask_any(self, request: Request, decode: Callable[[bytes], Answer]) -> Answer:
        """Ask whichever broker answers. Only for questions: the same one may be asked several times."""
        failure: Exception | None = None
        for address in dict.fromkeys([*self._brokers, *self.bootstrap]):
            try:
                return await self.ask(address, request, decode)
            except (Unavailable, Disconnected) as tried:
                failure = tried
        raise Unavailable(f"no broker of {self.bootstrap} answers: {failure}") from failure

    def close(self) -> None:
        """Close every connection. Idempotent."""
        for connection in (each for connections in self._connections.values() for each in connections):
            connection.close()
        self._connections.clear()

    async def _look_up(self, topic: str) -> Mapping[int, Address]:
        metadata = await self.ask_any(Metadata((topic,)), decode_metadata)
        self._brokers = list(metadata.brokers.values())
        found = metadata.topics.get(topic)
        if found is None or found.code in (Code.UNKNOWN_TOPIC_OR_PARTITION, Code.INVALID_TOPIC_EXCEPTION):
            raise Refused(f"there is no topic {topic!r} (or it may not be described): create it first")
        if found.code == Code.TOPIC_AUTHORIZATION_FAILED:
            raise Misconfigured(f"not authorised to describe topic {topic!r}: grant DESCRIBE and WRITE")
        leaders = {
            number: metadata.brokers[leader] for number, leader in found.leaders.items() if leader in metadata.brokers
        }
        if found.code != Code.NONE or len(leaders) < len(found.leaders):
            raise Unavailable(f"topic {topic!r} has partitions without a leader: {code_name(found.code)}")
        self._leaders[topic] = asyncio.get_running_loop().time(), leaders
        return leaders

    def _free(self, address: Address) -> Connection | None:
        """A connection on which nothing is in flight; where there is none and there may be no more, the least busy."""
        connections = self._connections.get(address)
        if not connections:
            return None
        least = connections[0]
        for connection in connections:
            if connection.in_flight < least.in_flight:
                least = connection
            if not least.in_flight:
                break
        if not least.usable:
            self._connections[address] = [connection for connection in connections if connection.usable]
            return self._free(address)
        return None if least.in_flight and len(connections) < self._lanes else least

    async def _connection(self, address: Address) -> Connection:
        """One more connection; several that are wanted at once are opened one after the other, if they still are."""
        async with self._opening.setdefault(address, asyncio.Lock()):
            free = self._free(address)
            if free is None:
                free = Connection(address, self._security)
                await free.open()
                self._connections.setdefault(address, []).append(free)
            return free


def _address(server: str) -> Address:
    host, _, port = server.strip().rpartition(":")
    if not host or not port.isdigit():
        raise Misconfigured(f"{server!r} is no Kafka address: write host:port")
    return host, int(port)
