"""A broker in memory, as truthful as Kafka: what was aborted is never said to be committed, however it is asked.

*prepares* makes it like one that allows KIP-939; otherwise its branches are last resources, which `time_out` may end.
Failures are scripted by attributes: `down`, `refuses`, `forgets_replies`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.errors import Disconnected, Refused, Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import Ability, Doubtful, Message, TransactionalIds
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Prepared, Recipe, Vote


@dataclass(slots=True)
class MemoryTopics:
    """Committed messages in their order, and every transaction by its number. Shared by "processes"."""

    messages: list[Message] = field(default_factory=list)
    open: dict[int, list[Message]] = field(default_factory=dict)
    ended: dict[int, Ending] = field(default_factory=dict)
    by_id: dict[str, int] = field(default_factory=dict)
    """The current transaction of each transactional id."""
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def end(self, number: int, wanted: Ending) -> Ending:
        """End a transaction once; how it ended."""
        held = self.open.pop(number, None)
        if held is not None:
            self.ended[number] = wanted
            if wanted is Ending.COMMITTED:
                self.messages.extend(held)
        return self.ended.get(number, Ending.ABORTED)


class MemoryBroker:
    """`ports.Participant` in memory."""

    def __init__(self, topics: MemoryTopics | None = None, *, prepares: bool = False) -> None:
        self.name = BranchName("memory")
        self.topics = topics or MemoryTopics()
        self.ids: TransactionalIds | None = None
        self.prepares = prepares
        self.down = False
        self.refuses = False
        self.forgets_replies = 0

    async def open(self) -> frozenset[Ability]:
        """Say whether it prepares."""
        return frozenset({Ability.PUBLISH} | ({Ability.PREPARE} if self.prepares else set()))

    async def close(self) -> None:
        """Nothing to close."""

    async def begin(self, gid: Gid, *, recipe: Recipe) -> "MemoryPublisher":
        """Open a transaction."""
        self._answer()
        publisher = MemoryPublisher(self)
        if self.ids is not None:
            (transactional_id,) = await self.ids.claim(self.name, 1)
            self.topics.by_id[transactional_id] = publisher.number
            publisher.transactional_id = transactional_id
        return publisher

    async def commit(self, prepared: Prepared) -> Ending:
        """Commit; how it ended."""
        return await boundary("kafka.end.commit", lambda: self._end(prepared, Ending.COMMITTED), gid=prepared.gid)

    async def abort(self, prepared: Prepared) -> Ending:
        """Abort; how it ended."""
        return await boundary("kafka.end.abort", lambda: self._end(prepared, Ending.ABORTED), gid=prepared.gid)

    async def in_doubt(self) -> Sequence[Doubtful]:
        """None, as Kafka."""
        return ()

    async def settle_id(self, transactional_id: str) -> None:
        """Abort what is open on a dead owner's id."""
        number = self.topics.by_id.get(transactional_id)
        if number is not None:
            self.topics.end(number, Ending.ABORTED)
            self.topics.ended.setdefault(number, Ending.ABORTED)

    async def lost_term(self) -> None:
        """Nothing is kept of an owner here."""

    def time_out(self) -> None:
        """End every open transaction with abort, as a broker does that waited for too long."""
        for number in list(self.topics.open):
            self.topics.end(number, Ending.ABORTED)

    async def _end(self, prepared: Prepared, wanted: Ending) -> Ending:
        self._answer()
        number = prepared.evidence.get("number")
        ending = self.topics.end(int(number), wanted) if number is not None else Ending.ABORTED
        if self.forgets_replies:
            self.forgets_replies -= 1
            raise Disconnected("the reply was lost")
        return ending

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("the broker is down", participant=self.name)


class MemoryPublisher:
    """`ports.PublishingSession` in memory."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.number = next(broker.topics.numbers)
        self.transactional_id: str | None = None
        self._messages: list[Message] = []
        self._voted = False

    def publish(self, message: Message) -> None:
        """Take a message."""
        if not message.topic:
            raise Refused("a message needs a topic")
        self._messages.append(message)

    async def vote(self, timeout_s: float) -> tuple[Vote, Evidence]:
        """YES, once the messages are with the broker."""
        if not self._messages:
            return Vote.READ_ONLY, {}

        async def produce() -> None:
            self._broker._answer()
            if self._broker.refuses:
                raise Refused("the broker refuses these messages", participant=self._broker.name)
            if self.number not in self._broker.topics.ended:
                self._broker.topics.open[self.number] = list(self._messages)

        await boundary("kafka.produce", produce)
        self._voted = True
        return Vote.YES, {"number": self.number, "transactional_id": self.transactional_id}

    async def discard(self) -> None:
        """Nobody can commit it any more, unless it has promised: by now that may have been decided."""
        if self._voted:
            return
        self._broker.topics.open.pop(self.number, None)
        self._broker.topics.ended.setdefault(self.number, Ending.ABORTED)
