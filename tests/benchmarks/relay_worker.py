"""One relay, or one bare producer, in a process of its own: it says `ready`, is told to `go`, and ends with its stdin.

    python -m tests.benchmarks.relay_worker relay|txoutbox|producer URL BOOTSTRAP

A relay is warm and idle when it is told to go: its backlog has just appeared in its table. (A producer is told which
topic, and how many messages, which it has in memory by then.)
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer

from tests.benchmarks.readback import value_of

KEYS = 1000
BATCH, IN_FLIGHT = 1000, 4
CONCURRENCY = 200
PRODUCER_OPTIONS: dict[str, Any] = {"enable_idempotence": True, "max_batch_size": 256 * 1024}
Go = Callable[[list[str]], Awaitable[None]]


@asynccontextmanager
async def relay(url: str, bootstrap: str) -> AsyncIterator[Go]:
    """Ours."""
    from participants import Kafka
    from participants.outbox.relay import Relay

    ours = Relay(url, {"events": Kafka(bootstrap).publisher()})
    await ours.start()

    async def go(_words: list[str]) -> None:
        ours.wake()

    try:
        yield go
    finally:
        await ours.stop()


@asynccontextmanager
async def txoutbox(url: str, bootstrap: str) -> AsyncIterator[Go]:
    """Theirs, as its documentation connects it to Kafka, with the settings that were found to be its best."""
    from txoutbox import Relay, RelayConfig
    from txoutbox.adapters.postgres import PostgresStorage

    async with asyncpg.create_pool(url, min_size=4, max_size=8) as pool:
        storage = PostgresStorage(pool, delete_on_ack=True)
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, **PRODUCER_OPTIONS) as producer:
            theirs = Relay(
                storage,
                publisher(producer),
                config=RelayConfig(batch_size=BATCH, concurrency=CONCURRENCY, lease=timedelta(seconds=60)),
            )

            async def go(_words: list[str]) -> None:
                theirs.wake()

            async with theirs:
                yield go


def publisher(producer: AIOKafkaProducer) -> Callable[[Any], Awaitable[None]]:
    """What txoutbox publishes by: one function, which returns when the broker has the message."""

    async def publish(message: Any) -> None:
        await producer.send_and_wait(
            message.topic,
            message.payload,
            key=message.key.encode(),
            headers=[(name, value.encode()) for name, value in message.headers.items()],
        )

    return publish


@asynccontextmanager
async def producer(_url: str, bootstrap: str) -> AsyncIterator[Go]:
    """The limit: the same records from memory, in the same batches, as many of them in flight."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, **PRODUCER_OPTIONS) as bare:

        async def batch(topic: str, numbers: range) -> "asyncio.Future[Any]":
            futures = [
                await bare.send(topic, values[n], key=keys[n % KEYS], headers=[("message-id", b"m%d" % n)])
                for n in numbers
            ]
            return asyncio.gather(*futures)

        keys = [b"k%d" % n for n in range(KEYS)]
        values: list[bytes] = []

        async def go(words: list[str]) -> None:
            topic, count = words[0], int(words[1])
            values.extend(value_of(n // KEYS) for n in range(len(values), count))
            if words[2:] == ["prepare"]:
                return
            flights: deque[asyncio.Future[Any]] = deque()
            for first in range(0, count, BATCH):
                if len(flights) == IN_FLIGHT:
                    await flights.popleft()
                flights.append(await batch(topic, range(first, min(first + BATCH, count))))
            for flight in flights:
                await flight

        yield go


async def main(kind: str, url: str, bootstrap: str) -> None:
    """Be ready, and do as told until stdin ends."""
    logging.basicConfig(level=logging.WARNING)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with {"relay": relay, "txoutbox": txoutbox, "producer": producer}[kind](url, bootstrap) as go:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while line := await lines.readline():
            await go(line.decode().split()[1:])
            sys.stdout.write("done\n")
            sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
