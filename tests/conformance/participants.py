"""The participants that the one suite is run on: how a test opens, writes to, and looks at each of them."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from coordinator.errors import Refused
from coordinator.gids import new_gid
from coordinator.ports import Message, Participant, Session
from coordinator.protocol.model import BranchName, Ending, Gid, Recipe
from participants import Kafka, MemoryBroker, MemoryDatabase, Postgres
from participants.barrier import Barrier, Call, Direction, Verdict
from participants.http import Key, SignedRequests, Verifier, delivery_of
from participants.http.reservations import reservations
from participants.http.service import Service
from participants.memory.broker import MemoryTopics
from participants.memory.database import MemoryStore
from participants.tcc import Tcc
from tests.integration.http.server import serving

_numbers = itertools.count()


@dataclass(kw_only=True)
class Bench:
    """One kind of participant. *make* makes one as another process on the same resource would."""

    make: Callable[[], Any]
    write: Callable[[Session], Awaitable[None]]
    visible: Callable[[bool], Awaitable[int]]
    """How many writes everybody sees; told whether to wait first for what is still being ended."""
    recipe: Recipe
    vote_point: str
    commit_point: str
    lists_in_doubt: bool = False
    prepare_store: Callable[[], Awaitable[None]] | None = None
    opened: list[Participant] = field(default_factory=list)

    async def open(self) -> Participant:
        """Another process' participant."""
        if self.prepare_store is not None:
            await self.prepare_store()
            self.prepare_store = None
        participant: Participant = self.make()
        participant.name = BranchName("branch")
        await participant.open()
        self.opened.append(participant)
        return participant

    async def close(self) -> None:
        """Close every one of them."""
        for participant in self.opened:
            await participant.close()

    async def seen(self) -> int:
        """How many writes everybody sees, once nothing is being ended any more."""
        return await self.visible(True)

    async def doubtful(self, participant: Participant) -> list[Gid]:
        """What is in doubt, by the participant's own list."""
        return [doubtful.prepared.gid for doubtful in await participant.in_doubt()]


def fresh_gid() -> Gid:
    """A new gid of ours."""
    return new_gid("unan", datetime.now(tz=UTC), os.urandom(16))


def memory_database() -> Bench:
    """Rows in memory."""
    store = MemoryStore()

    async def write(session: Any) -> None:
        session.connection.insert("rows", 1)

    async def visible(settled: bool) -> int:
        return len(store.tables["rows"])

    return Bench(
        make=lambda: MemoryDatabase(store),
        write=write,
        visible=visible,
        recipe=Recipe.TWO_PHASE,
        vote_point="pg.prepare",
        commit_point="pg.commit_prepared",
        lists_in_doubt=True,
    )


def memory_broker() -> Bench:
    """Messages in memory, in transactions that are last resources."""
    topics = MemoryTopics()

    async def visible(settled: bool) -> int:
        return len(topics.messages)

    return Bench(
        make=lambda: MemoryBroker(topics),
        write=_publish("topic"),
        visible=visible,
        recipe=Recipe.LAST_RESOURCE,
        vote_point="kafka.produce",
        commit_point="kafka.end.commit",
    )


def postgres(url: str) -> Bench:
    """Rows in a real PostgreSQL."""

    async def query(text: str) -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(text)
        finally:
            await connection.close()

    async def create() -> None:
        await query("CREATE TABLE business (n int)")

    async def write(session: Any) -> None:
        await session.connection.execute("INSERT INTO business VALUES (1)")

    async def visible(settled: bool) -> int:
        return int(await query("SELECT count(*) FROM business"))

    return Bench(
        make=lambda: Postgres(url),
        write=write,
        visible=visible,
        recipe=Recipe.TWO_PHASE,
        vote_point="pg.prepare",
        commit_point="pg.commit_prepared",
        lists_in_doubt=True,
        prepare_store=create,
    )


class _Reservations:
    """A service in memory that can reserve, with the three functions as their contract asks for them."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    async def attempt(self, gid: str, what: Any) -> None:
        """Reserve, unless it was cancelled before."""
        if self.states.setdefault(gid, "reserved") == "cancelled":
            raise Refused("it was cancelled before it came")

    async def confirm(self, gid: str) -> Ending | None:
        """Make it final."""
        return self._end(gid, "confirmed", Ending.ABORTED)

    async def cancel(self, gid: str) -> Ending | None:
        """Take it back, or keep it out."""
        self.states.setdefault(gid, "reserved")
        return self._end(gid, "cancelled", Ending.COMMITTED)

    async def pending(self) -> list[tuple[str, float]]:
        """What is reserved now."""
        return [(gid, 0.0) for gid, state in self.states.items() if state == "reserved"]

    def _end(self, gid: str, wanted: str, otherwise: Ending) -> Ending | None:
        if self.states[gid] == "reserved":
            self.states[gid] = wanted
        return None if self.states[gid] == wanted else otherwise


def tcc_in_memory() -> Bench:
    """Reservations in memory."""
    service = _Reservations()

    async def visible(settled: bool) -> int:
        return list(service.states.values()).count("confirmed")

    return _tcc(service, visible)


class BarredReservations:
    """A service whose reservations are rows in PostgreSQL, with the barrier in front of them."""

    def __init__(self, url: str) -> None:
        self._url, self._barrier = url, Barrier("stock")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """One transaction on a connection of its own."""
        connection = await asyncpg.connect(self._url)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    async def create(self) -> None:
        """Create its tables."""
        connection = await asyncpg.connect(self._url)
        await self._barrier.create(connection)
        await connection.execute(
            "CREATE TABLE reservations (gid text PRIMARY KEY, final bool NOT NULL DEFAULT false, "
            "at timestamptz NOT NULL DEFAULT now())"
        )
        await connection.close()

    async def attempt(self, gid: str, what: Any) -> None:
        """Reserve once, and never after a cancellation."""
        async with self.transaction() as connection:
            passage = await self._barrier.enter(connection, Call(gid, "stock", Direction.TRY))
            if passage.verdict is Verdict.PROCEED:
                await connection.execute("INSERT INTO reservations (gid) VALUES ($1)", gid)
        if passage.verdict is Verdict.TOO_LATE:
            raise Refused("it was cancelled before it came")

    async def confirm(self, gid: str) -> Ending | None:
        """Make it final."""
        async with self.transaction() as connection:
            passage = await self._barrier.enter(connection, Call(gid, "stock", Direction.CONFIRM))
            if passage.verdict is Verdict.PROCEED:
                await connection.execute("UPDATE reservations SET final = true WHERE gid = $1", gid)
        return Ending.ABORTED if passage.verdict is Verdict.TOO_LATE else None

    async def cancel(self, gid: str) -> Ending | None:
        """Take it back, or keep it out."""
        async with self.transaction() as connection:
            passage = await self._barrier.enter(connection, Call(gid, "stock", Direction.CANCEL))
            if passage.verdict is Verdict.PROCEED:
                await connection.execute("DELETE FROM reservations WHERE gid = $1", gid)
        return Ending.COMMITTED if passage.verdict is Verdict.TOO_LATE else None

    async def pending(self) -> list[tuple[str, float]]:
        """What is reserved now."""
        async with self.transaction() as connection:
            rows = await connection.fetch(
                "SELECT gid, extract(epoch FROM now() - at)::float8 AS age_s FROM reservations WHERE NOT final"
            )
        return [(row["gid"], row["age_s"]) for row in rows]

    async def final(self) -> int:
        """How many are final."""
        async with self.transaction() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM reservations WHERE final"))


def tcc_in_postgres(url: str) -> Bench:
    """Reservations in a real PostgreSQL, behind the barrier."""
    service = BarredReservations(url)

    async def visible(settled: bool) -> int:
        return await service.final()

    bench = _tcc(service, visible)
    bench.prepare_store = service.create
    return bench


def _tcc(service: Any, visible: Callable[[bool], Awaitable[int]]) -> Bench:
    async def write(session: Any) -> None:
        session.connection.reserve("one")

    return Bench(
        make=lambda: Tcc(service.attempt, confirm=service.confirm, cancel=service.cancel, pending=service.pending),
        write=write,
        visible=visible,
        recipe=Recipe.TWO_PHASE,
        vote_point="tcc.try",
        commit_point="tcc.confirm",
        lists_in_doubt=True,
    )


@dataclass(kw_only=True)
class _Served(Bench):
    """A bench whose resource is a server; it ends with it."""

    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def close(self) -> None:
        """And the server."""
        await Bench.close(self)
        await self.stack.aclose()


def tcc_over_http() -> Bench:
    """Reservations of a service in this process, that is called over real connections."""
    store, key, urls = _Reservations(), Key("tcc", b"t" * 32), []
    bench: _Served

    async def answer(request: Request) -> JSONResponse:
        gid, what = delivery_of(request.scope).gid, request.path_params["what"]
        try:
            if what == "try":
                await store.attempt(gid, await request.json())
                return JSONResponse({})
            if what == "pending":
                found = [{"gid": each, "age_s": age_s} for each, age_s in await store.pending()]
                return JSONResponse({"pending": found})
            ended = await (store.confirm(gid) if what == "confirm" else store.cancel(gid))
        except Refused as refused:
            return JSONResponse({"reason": str(refused)}, 409)
        return JSONResponse({} if ended is None else {"ended": ended.value})

    async def serve() -> None:
        app = SignedRequests(Starlette(routes=[Route("/r/{what}", answer, methods=["POST"])]), Verifier([key]))
        port = await bench.stack.enter_async_context(serving(app))
        urls.append(f"http://127.0.0.1:{port}")

    def make() -> Tcc:
        service = Service("stock", urls[0], key, networks=["127.0.0.1/32"])
        bench.stack.push_async_callback(service.close)
        return Tcc(**reservations(service, "/r"))

    async def visible(settled: bool) -> int:
        return list(store.states.values()).count("confirmed")

    plain = _tcc(store, visible)
    bench = _Served(
        make=make,
        write=plain.write,
        visible=visible,
        recipe=plain.recipe,
        vote_point=plain.vote_point,
        commit_point=plain.commit_point,
        lists_in_doubt=True,
        prepare_store=serve,
    )
    return bench


class _Ids:
    """Transactional ids without a journal."""

    async def claim(self, cluster: str, count: int) -> list[str]:
        return [f"conformance-{next(_numbers)}" for _ in range(count)]


def kafka(bootstrap: str, topic: str, recipe: Recipe) -> Bench:
    """Messages in a real Kafka, truly prepared under the two-phase recipe, and last resources otherwise."""

    def make() -> Kafka:
        participant = Kafka(bootstrap)
        participant.ids = _Ids()  # type: ignore[assignment]  # All that a pool asks of them.
        return participant

    async def visible(settled: bool) -> int:
        return await count_committed(bootstrap, topic, settled=settled)

    return Bench(
        make=make,
        write=_publish(topic),
        visible=visible,
        recipe=recipe,
        vote_point="kafka.produce",
        commit_point="kafka.end.commit",
    )


async def count_committed(bootstrap: str, topic: str, *, settled: bool) -> int:
    """How many messages a `read_committed` consumer finds in a topic with one partition.

    *settled*: wait first until no transaction is open in it (brokers answer before they have written the markers).
    """
    partition = TopicPartition(topic, 0)
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False)
    every = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    async with reader, every, asyncio.timeout(30):
        stable = (await reader.end_offsets([partition]))[partition]
        while settled and stable < (await every.end_offsets([partition]))[partition]:
            await asyncio.sleep(0.01)
            stable = (await reader.end_offsets([partition]))[partition]
        reader.assign([partition])
        await reader.seek_to_beginning(partition)
        seen = 0
        while await reader.position(partition) < stable:
            batches = await reader.getmany(timeout_ms=100)
            seen += sum(len(records) for records in batches.values())
        return seen


def _publish(topic: str) -> Callable[[Any], Awaitable[None]]:
    async def publish(session: Any) -> None:
        session.publish(Message(id=str(next(_numbers)), participant=BranchName("branch"), topic=topic, value=b"one"))

    return publish
