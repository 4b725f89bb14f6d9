"""The barriers that the public suite is run on: how a test has effects beside each of them."""

from collections import Counter
from contextlib import asynccontextmanager

import asyncpg
import psycopg
import redis.asyncio
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from participants.barrier import Asyncpg, Barrier, Psycopg, SqlAlchemy, Verdict
from participants.barrier.memory import Memory, MemoryConnection
from participants.barrier.on_redis import RedisBarrier

TABLES = """
    CREATE TABLE effects (gid text, amount bigint);
    CREATE TABLE total (amount bigint);
    INSERT INTO total VALUES (0);
"""
ADD = "INSERT INTO effects VALUES ($1, $2)"
ADD_UP = "UPDATE total SET amount = amount + $1"


async def prepare(url):
    """The barrier's table, and something to have an effect on."""
    connection = await asyncpg.connect(url)
    await Barrier("suite").create(connection)
    await connection.execute(TABLES)
    await connection.close()


class SqlSubject:
    """Effects in PostgreSQL, by any driver: *connected* gives an open connection outside of any transaction."""

    def __init__(self, driver, connected):
        self.driver = driver
        self.barrier = Barrier("suite", driver)
        self.connected = connected

    async def deliver(self, call, effect, *, result=None, refuses=False, before_commit=None):
        async with self.connected() as connection, self.driver.transaction(connection):
            passage = await self.barrier.enter(connection, call)
            if passage.verdict is Verdict.PROCEED:
                if not refuses:
                    await self.add(connection, call, effect)
                if result is not None:
                    await self.barrier.keep(connection, call, result, refused=refuses)
            if before_commit is not None:
                await before_commit()
        return passage

    async def intend(self, call):
        async with self.connected() as connection:
            return await self.barrier.intend(connection, call)

    async def settle(self, call, effect, *, result=None):
        async with self.connected() as connection, self.driver.transaction(connection):
            verdict = await self.barrier.settle(connection, call, result)
            if verdict is Verdict.PROCEED:
                await self.add(connection, call, effect)
        return verdict

    async def ask(self, call):
        async with self.connected() as connection, self.driver.transaction(connection):
            return await self.barrier.ask(connection, call)

    async def add(self, connection, call, effect):
        await self.driver.rows(connection, f"{ADD} RETURNING 1", call.gid, effect)
        await self.driver.rows(connection, f"{ADD_UP} RETURNING 1", effect)

    async def effects(self, gid):
        return await self._sum("SELECT coalesce(sum(amount), 0) FROM effects WHERE gid = $1", gid)

    async def total(self):
        return await self._sum("SELECT amount FROM total")

    async def _sum(self, statement, *arguments):
        async with self.connected() as connection:
            return int((await self.driver.rows(connection, statement, *arguments))[0][0])


@asynccontextmanager
async def on_asyncpg(url, isolation="read committed"):
    """A pool's connections."""
    settings = {"default_transaction_isolation": isolation}
    async with asyncpg.create_pool(url, min_size=0, max_size=10, server_settings=settings) as pool:
        yield SqlSubject(Asyncpg(), pool.acquire)


@asynccontextmanager
async def on_sqlalchemy(url, dialect="asyncpg", session=False):
    """An engine's connections, or sessions."""
    engine = create_async_engine(url.replace("postgresql://", f"postgresql+{dialect}://"), pool_size=10)
    try:
        yield SqlSubject(SqlAlchemy(), (lambda: AsyncSession(engine)) if session else engine.connect)
    finally:
        await engine.dispose()


@asynccontextmanager
async def on_psycopg(url):
    """A connection for each."""

    @asynccontextmanager
    async def connected():
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        try:
            yield connection
        finally:
            await connection.close()

    yield SqlSubject(Psycopg(), connected)


class MemorySubject(SqlSubject):
    """Effects in memory."""

    def __init__(self):
        super().__init__(Memory(), self._connected)
        self.sums = Counter()

    @asynccontextmanager
    async def _connected(self):
        yield MemoryConnection()

    async def add(self, connection, call, effect):
        connection.at_commit.append(lambda: self.sums.update({call.gid: effect, "total": effect}))

    async def effects(self, gid):
        return self.sums[gid]

    async def total(self):
        return self.sums["total"]


class RedisSubject:
    """Effects in Redis, carried out by the barrier's script: there is no transaction to break but before it."""

    def __init__(self, client):
        self.client = client
        self.barrier = RedisBarrier("suite", client)

    async def deliver(self, call, effect, *, result=None, refuses=False, before_commit=None):
        if before_commit is not None:
            await before_commit()
        commands = () if refuses else self.commands(call, effect)
        return await self.barrier.enter(call, *commands, result=result, refused=refuses)

    async def intend(self, call):
        return await self.barrier.intend(call)

    async def settle(self, call, effect, *, result=None):
        return await self.barrier.settle(call, *self.commands(call, effect), result=result)

    async def ask(self, call):
        return await self.barrier.ask(call)

    def commands(self, call, effect):
        return ("INCRBY", f"effects:{call.gid}", effect), ("INCRBY", "total", effect)

    async def effects(self, gid):
        return int(await self.client.get(f"effects:{gid}") or 0)

    async def total(self):
        return int(await self.client.get("total") or 0)


@asynccontextmanager
async def in_memory():
    """No server."""
    yield MemorySubject()


@asynccontextmanager
async def on_redis(url):
    """A client's connections."""
    async with redis.asyncio.from_url(url) as client:
        yield RedisSubject(client)
