"""Brokers that cannot keep the promise are refused before anything is sent to them."""

import asyncio
import contextlib

import pytest

from coordinator.errors import Misconfigured, Unavailable
from participants.kafka.cluster import Cluster
from participants.kafka.connection import Security
from participants.kafka.wire import Writer


class Broker:
    """Answers ApiVersions, and nothing else: the highest version of each request that it says it serves."""

    def __init__(self, served: dict[int, int]) -> None:
        self.served = served

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                body = self._versions() if frame[2:4] == b"\x00\x03" else b"\x00\x00" + (0).to_bytes(4, "big")
                writer.write((4 + len(body)).to_bytes(4, "big") + frame[4:8] + body)
        writer.close()

    def _versions(self) -> bytes:
        answer = Writer().int16(0)
        answer.array(self.served.items(), lambda w, item: w.int16(item[0]).int16(0).int16(item[1]).no_tags())
        return bytes(answer.int32(0).no_tags().buffer)


@pytest.mark.parametrize("served", [{0: 11, 22: 5, 26: 4}, {0: 12, 22: 5, 26: 4}, {0: 11, 22: 5, 26: 5}, {}])
async def test_a_broker_without_transactions_v2_is_refused_with_the_remedy(served):
    """Version 5 of EndTxn and version 12 of Produce came with Kafka 4.0."""
    async with await asyncio.start_server(Broker(served).serve, "127.0.0.1") as server:
        cluster = Cluster(_address(server), Security())
        with pytest.raises(Misconfigured, match=r"Apache Kafka 4\.0 or later"):
            await cluster.check()
        cluster.close()


async def test_a_broker_with_transactions_v2_says_whether_it_serves_kip_939():
    """The highest version of InitProducerId tells."""
    async with await asyncio.start_server(Broker({0: 13, 22: 6, 26: 5}).serve, "127.0.0.1") as server:
        cluster = Cluster(_address(server), Security())
        assert await cluster.check() == 6
        cluster.close()


@pytest.mark.parametrize("bootstrap", ["", "localhost", "localhost:", ":9092", "localhost:kafka", "a:1,,b:2"])
def test_an_address_that_is_none_is_refused_at_once(bootstrap):
    """Before anything is opened, with what should have been written."""
    with pytest.raises(Misconfigured, match="host:port"):
        Cluster(bootstrap, Security())


async def test_where_no_broker_answers_every_one_was_asked():
    """Nothing happened; the error names the servers."""
    cluster = Cluster("127.0.0.1:1,127.0.0.1:2", Security())
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1.*127\.0\.0\.1"):
        await cluster.check()


def _address(server: asyncio.Server) -> str:
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
