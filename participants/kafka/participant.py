"""Kafka as a participant: opens, votes, commits, aborts and settles transactions v2 on a pool of rested ids."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator import limits
from coordinator.errors import Disconnected, InDoubt, Misconfigured, Refused, Replaced, TurnedAway, Unavailable
from coordinator.faults.points import boundary
from coordinator.ports import Ability, Doubtful, Message, PoolFigures, TransactionalIds
from coordinator.protocol.model import BranchName, Ending, Evidence, Gid, Prepared, Recipe, Vote
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
from participants.kafka.codes import Code, code_name
from participants.kafka.connection import Security
from participants.kafka.outcome import definite_answer, end
from participants.kafka.pool import IdPool, PooledId
from participants.kafka.probe import probe
from participants.kafka.publisher import KafkaPublisher
from participants.kafka.transaction import KafkaTransaction

logger = logging.getLogger(__name__)

_WAIT = frozenset(
    {
        Code.CONCURRENT_TRANSACTIONS,
        Code.COORDINATOR_LOAD_IN_PROGRESS,
        Code.COORDINATOR_NOT_AVAILABLE,
        Code.NOT_COORDINATOR,
        Code.REQUEST_TIMED_OUT,
    }
)
_TOPIC_BYTES_MAX = 249


@dataclass(slots=True)
class _Live:
    """A transaction of this process that has voted: where its id goes back to."""

    pool: IdPool
    pooled: PooledId


class Kafka:
    """A Kafka cluster (4.0 or later).

    *bootstrap*: `host:port,host:port`. *security*: aiokafka's options for TLS and SASL. *two_phase*: whether branches
    are truly prepared (KIP-939); None asks the broker. *timeout_s*: after how long the broker itself aborts an ordinary
    transaction that was left open.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        security: Security | None = None,
        two_phase: bool | None = None,
        timeout_s: float = limits.KAFKA_TRANSACTION_TIMEOUT_S,
    ) -> None:
        self.name = BranchName("kafka")
        self.bootstrap = bootstrap
        self.security = security or Security()
        self.ids: TransactionalIds | None = None
        """Who owns which transactional id; the coordinator hands it in before `open`."""
        self._two_phase_wanted = two_phase
        self._timeout_ms = int(timeout_s * 1000)
        self.cluster = Cluster(bootstrap, self.security)
        self.ordinary = IdPool(claim=self._claim, initialise=self._initialise)
        self.two_phase = IdPool(claim=self._claim, initialise=self._initialise_two_phase)
        self._live: dict[tuple[str, Producer], _Live] = {}
        self._cleaning: set[asyncio.Task[None]] = set()

    async def open(self) -> frozenset[Ability]:
        """Connect and find out what the brokers can do. A cluster that is down now is asked again when it is used.

        Raises `Misconfigured` for a broker without transactions v2, or when two-phase was demanded and is not served.
        """
        try:
            highest = await self.cluster.check()
        except Unavailable as failure:
            if self._two_phase_wanted is None:
                logger.warning("%s does not answer yet (%s); it is taken for one without KIP-939", self.name, failure)
            return frozenset({Ability.PUBLISH} | ({Ability.PREPARE} if self._two_phase_wanted else set()))
        with contextlib.suppress(Unavailable):
            self.ordinary.put_back_unused(await self.ordinary.take())  # The first transaction need not wait for ids.
        if self._two_phase_wanted is False:
            return frozenset({Ability.PUBLISH})
        if highest < 6 or not await self._accepts_two_phase():
            if self._two_phase_wanted:
                raise Misconfigured(
                    f"{self.name} was asked to be two-phase, and its brokers do not serve KIP-939: set "
                    "transaction.two.phase.commit.enable=true and unstable.api.versions.enable=true on them"
                )
            return frozenset({Ability.PUBLISH})
        return frozenset({Ability.PUBLISH, Ability.PREPARE})

    async def close(self) -> None:
        """End what is being cleaned, and let go of every connection. Idempotent."""
        if self._cleaning:
            await asyncio.wait(self._cleaning, timeout=1.0)
        for task in list(self._cleaning):
            task.cancel()
        for pool in (self.ordinary, self.two_phase):
            await pool.close()
        self.cluster.close()

    async def begin(self, gid: Gid, *, recipe: Recipe) -> "KafkaSession":
        """Begin a transaction on a rested id. Raises `Unavailable` or `Overloaded` where there is none to be had."""
        pool = self.two_phase if recipe is Recipe.TWO_PHASE else self.ordinary
        pooled = await pool.take()
        return KafkaSession(self, gid, pool, pooled)

    async def commit(self, prepared: Prepared) -> Ending:
        """Commit the branch; how it ended, by the broker's word. See `ports.Participant`."""
        return await self._end(prepared, commit=True)

    async def abort(self, prepared: Prepared) -> Ending:
        """Abort the branch; one that never got as far as a vote cannot be committed by anyone."""
        if KafkaBranch.of(prepared.evidence) is None:
            return Ending.ABORTED
        return await self._end(prepared, commit=False)

    def pools(self) -> Mapping[str, PoolFigures]:
        """The pools of ids. See `ports.HasPools`."""
        return {"ordinary": self.ordinary.figures(), "two-phase": self.two_phase.figures()}

    async def in_doubt(self) -> Sequence[Doubtful]:
        """None: open transactions are found by their ids' owner (see `settle_id`), not by looking."""
        return ()

    async def settle_id(self, transactional_id: str) -> None:
        """Abort whatever is open on a dead owner's id, and fence the owner."""
        await self._initialise(transactional_id)

    async def lost_term(self) -> None:
        """Use nothing of the old owner again."""
        self.ordinary.drop_all()
        self.two_phase.drop_all()

    def publisher(self) -> KafkaPublisher:
        """What a relay delivers through: an idempotent producer, outside of any transaction."""
        return KafkaPublisher(self.bootstrap, self.security.options())

    def crowded(self, recipe: Recipe) -> str | None:
        """Why nothing more should begin: nearly all ids that we may have are in use. See `Admission`."""
        used = (self.two_phase if recipe is Recipe.TWO_PHASE else self.ordinary).used
        if used < limits.KAFKA_POOL_SHARE * limits.KAFKA_POOL_MAX:
            return None
        return (
            f"{self.name}: {used} of {limits.KAFKA_POOL_MAX} transactional ids are in use; "
            "slow down, or run more processes"
        )

    async def describe(self, transactional_id: str) -> TransactionState:
        """What the coordinating broker knows about an id."""
        address = await self.cluster.coordinator(transactional_id)
        return await boundary(
            "kafka.describe",
            lambda: self.cluster.ask(address, DescribeTransactions(transactional_id), decode_describe_transactions),
            transactional_id=transactional_id,
        )

    async def probe(self, prepared: Prepared) -> str:
        """What the brokers say about a branch. See `ports.AnswersProbes`."""
        branch = KafkaBranch.of(prepared.evidence)
        if branch is None:
            return "it has not voted: nobody can commit it"
        return await probe(self.cluster, branch, await self.describe(branch.transactional_id))

    def voted(self, branch: KafkaBranch, pool: IdPool, pooled: PooledId) -> None:
        """Remember where the id of a transaction that voted goes back to."""
        self._live[(branch.transactional_id, branch.producer)] = _Live(pool, pooled)

    def clean(self, pool: IdPool, transaction: KafkaTransaction, pooled: PooledId) -> None:
        """End a transaction that nobody may commit, in the background."""
        task = asyncio.create_task(self._clean(pool, transaction, pooled))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _clean(self, pool: IdPool, transaction: KafkaTransaction, pooled: PooledId) -> None:
        await transaction.stop()
        request = EndTxn(pooled.transactional_id, pooled.producer, commit=False)
        code: int = Code.UNKNOWN_SERVER_ERROR
        following = pooled.producer
        while code == Code.UNKNOWN_SERVER_ERROR:
            # For as long as we live: a prepared transaction never times out, and its readers wait for it.
            try:
                code, following = await definite_answer(
                    self.cluster, request, within_s=limits.KAFKA_TRANSACTION_TIMEOUT_S
                )
            except (InDoubt, Unavailable) as failure:
                logger.warning("id %s is not cleaned yet: %s", pooled.transactional_id, failure)
            except Refused as failure:
                logger.warning("id %s is left to be settled by a successor: %s", pooled.transactional_id, failure)
                break
        if code == Code.NONE:
            pool.give_back(pooled, following)
        else:
            pool.drop(pooled)  # Without the next epoch a late request could still join the next transaction.

    async def _end(self, prepared: Prepared, *, commit: bool) -> Ending:
        branch = KafkaBranch.of(prepared.evidence)
        assert branch is not None, f"{prepared.gid} has no evidence of a vote of {prepared.branch}"
        try:
            ended = await end(self.cluster, branch, commit=commit, within_s=limits.PARTICIPANT_CALL_S)
        except Refused as refused:
            # What was taken away (an authorisation) may be given back, and the branch still has to be ended then.
            raise InDoubt(
                f"{self.name} does not let the branch be ended: {refused}", participant=self.name
            ) from refused
        live = self._live.pop((branch.transactional_id, branch.producer), None)
        if live is not None:
            if ended.following is None:
                live.pool.drop(live.pooled)
            else:
                live.pool.give_back(live.pooled, ended.following)
        return ended.ending

    async def _claim(self, count: int) -> list[str]:
        assert self.ids is not None, "the coordinator hands in the registry of ids before it opens a participant"
        try:
            return list(await self.ids.claim(self.name, count))
        except Replaced as replaced:
            raise Unavailable(
                f"{self.name}: this process is no owner at the moment", participant=self.name
            ) from replaced

    async def _initialise(self, transactional_id: str) -> Producer:
        return await self._ask_for_producer(InitProducerId(transactional_id, self._timeout_ms))

    async def _initialise_two_phase(self, transactional_id: str) -> Producer:
        return await self._ask_for_producer(InitProducerId(transactional_id, self._timeout_ms, two_phase=True))

    async def _ask_for_producer(self, request: InitProducerId) -> Producer:
        """Initialise an id; a cluster that is starting, or an abort that is being written, is waited for."""
        until = asyncio.get_running_loop().time() + limits.PARTICIPANT_CALL_S
        name = request.transactional_id
        while True:
            code, producer, failure = await self._initialised(request)
            if code == Code.NONE:
                return producer
            if code not in _WAIT:
                raise Misconfigured(f"Kafka refuses to initialise {name}: {code_name(code)}", participant=self.name)
            if asyncio.get_running_loop().time() > until:
                reason = failure or code_name(code)
                raise Unavailable(f"{name} could not be initialised: {reason}", participant=self.name) from failure
            if code != Code.CONCURRENT_TRANSACTIONS:
                self.cluster.forget(transactional_id=name)
            await asyncio.sleep(limits.KAFKA_RETRY_PAUSE_S)

    async def _initialised(self, request: InitProducerId) -> tuple[int, Producer, Exception | None]:
        name = request.transactional_id
        try:
            address = await self.cluster.coordinator(name)
            code, producer = await boundary(
                "kafka.init_producer_id",
                lambda: self.cluster.ask(address, request, decode_producer),
                transactional_id=name,
            )
        except (Disconnected, Unavailable, OSError, TimeoutError) as failure:
            return Code.COORDINATOR_NOT_AVAILABLE, Producer(-1, -1), failure
        return code, producer, None

    async def _accepts_two_phase(self) -> bool:
        """Whether the brokers allow KIP-939: the first two-phase ids are the question.

        No answer is not a no: who demanded it is believed, and what is asked later finds out.
        """
        try:
            pooled = await self.two_phase.take()
        except Misconfigured as failure:
            logger.info("%s does not prepare: %s", self.name, failure)
            return False
        except Unavailable as failure:
            logger.warning("%s does not say yet whether it prepares: %s", self.name, failure)
            return bool(self._two_phase_wanted)
        self.two_phase.put_back_unused(pooled)
        return True


class KafkaSession:
    """One open transaction, as the engine asks for it."""

    def __init__(self, participant: Kafka, gid: Gid, pool: IdPool, pooled: PooledId) -> None:
        self.gid = gid
        self._participant = participant
        self._pool = pool
        self._pooled: PooledId | None = pooled
        self._transaction = KafkaTransaction(
            cluster=participant.cluster, transactional_id=pooled.transactional_id, producer=pooled.producer
        )

    def publish(self, message: Message) -> None:
        """Take a message; it travels at once. Raises `TurnedAway` for a topic that no broker can have."""
        topic = message.topic
        if not topic or len(topic) > _TOPIC_BYTES_MAX or not all(c.isalnum() or c in "._-" for c in topic):
            raise TurnedAway(f"{topic!r} is no Kafka topic: letters, digits, '.', '_' and '-', at most 249 of them")
        if message.partition is not None and message.partition < 0:
            raise TurnedAway(f"there is no partition {message.partition}")
        self._transaction.add(message)

    async def vote(self, timeout_s: float) -> tuple[Vote, Evidence]:
        """YES once every record is acknowledged; READ_ONLY when there is none. See `ports.Session`."""
        assert self._pooled is not None, "a session votes once, and not after it was discarded"
        try:
            async with asyncio.timeout(timeout_s):
                branch = await self._transaction.acknowledged()
        except TimeoutError as failure:
            name = self._participant.name
            raise Unavailable(f"{name} did not acknowledge within {timeout_s:.3g} s", participant=name) from failure
        except (Refused, Unavailable, Disconnected) as failure:
            failure.participant = self._participant.name
            raise
        if branch is None:
            await self.discard()
            return Vote.READ_ONLY, {}
        self._participant.voted(branch, self._pool, self._pooled)
        self._pooled = None
        return Vote.YES, branch.evidence()

    async def discard(self) -> None:
        """Give the transaction up: nobody can commit it any more. Its id is cleaned in the background. Idempotent."""
        pooled, self._pooled = self._pooled, None
        if pooled is None:
            return
        if self._transaction.touched:
            self._participant.clean(self._pool, self._transaction, pooled)
        else:
            await self._transaction.stop()
            self._pool.put_back_unused(pooled)
