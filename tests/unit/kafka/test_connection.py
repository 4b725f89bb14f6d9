"""One connection to a peer that answers wrongly, late, or not at all: it ends, and what was in flight is unknown."""

import asyncio
import contextlib
import ssl

import pytest

from coordinator.errors import Disconnected, Unavailable
from participants.kafka.codec import EndTxn, Producer, decode_producer
from participants.kafka.connection import Connection, Security

REQUEST = EndTxn("id", Producer(1, 1), commit=True)
GOOD = b"\x00" + b"\x00" * 4 + b"\x00\x00" + (11).to_bytes(8, "big") + (2).to_bytes(2, "big") + b"\x00"


class Peer:
    """A hostile peer: it lets a client in as a broker does, and then answers with the bytes it was given."""

    def __init__(self, answers) -> None:
        self.answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                correlation_id = frame[4:8]
                if frame[:2] == (18).to_bytes(2, "big"):
                    body = b"\x00\x00" + (0).to_bytes(4, "big")  # No error, no versions: the layout of version 0.
                elif self.answers:
                    body = self.answers.pop(0)
                else:
                    continue
                if body is None:
                    break
                writer.write((4 + len(body)).to_bytes(4, "big") + correlation_id + body)
        writer.close()


@pytest.fixture
async def connect():
    """A factory of connections to a peer with these answers."""
    made = []

    async def create(*answers, timeout_s: float = 5.0) -> Connection:
        server = await asyncio.start_server(Peer(answers).serve, "127.0.0.1")
        made.append(server)
        connection = Connection(server.sockets[0].getsockname()[:2], Security(), timeout_s=timeout_s)
        await connection.open()
        made.append(connection)
        return connection

    yield create
    for thing in made:
        thing.close()


async def test_many_requests_are_in_flight_and_each_gets_its_own_answer(connect):
    """Answers are matched by correlation id, in the order in which they were asked for."""
    answers = [GOOD[:7] + n.to_bytes(8, "big") + GOOD[15:] for n in range(20)]
    connection = await connect(*answers)
    found = await asyncio.gather(*(connection.ask(REQUEST, decode_producer) for _ in range(20)))
    assert [producer.producer_id for _, producer in found] == list(range(20))


@pytest.mark.parametrize("body", [b"", b"\x00\x01", b"\xff" * 30, b"\x00" * 10], ids=["empty", "cut", "tags", "short"])
async def test_an_answer_that_cannot_be_decoded_ends_the_connection(connect, body):
    """The peer does not speak our version, so nothing it says is believed, and what it did is unknown."""
    connection = await connect(body)
    with pytest.raises(Disconnected):
        await connection.ask(REQUEST, decode_producer)
    assert not connection.usable


async def test_everything_in_flight_is_unknown_when_the_connection_ends(connect):
    """A request that was answered is; the others may have been carried out."""
    connection = await connect(GOOD, None)
    results = await asyncio.gather(
        *(connection.ask(REQUEST, decode_producer) for _ in range(3)), return_exceptions=True
    )
    assert results[0] == (0, Producer(11, 2))
    assert [type(result) for result in results[1:]] == [Disconnected, Disconnected]
    assert not connection.usable


async def test_an_answer_that_does_not_come_in_time_ends_the_connection(connect):
    """Its bytes could otherwise be taken for a later request's."""
    connection = await connect(timeout_s=0.2)
    with pytest.raises(Disconnected):
        await connection.ask(REQUEST, decode_producer)
    assert not connection.usable


async def test_nobody_there_means_that_nothing_happened():
    """Connecting failed, so nothing was sent: that is not an unknown outcome."""
    server = await asyncio.start_server(lambda _, __: None, "127.0.0.1")
    address = server.sockets[0].getsockname()[:2]
    server.close()
    await server.wait_closed()
    with pytest.raises(Unavailable):
        await Connection(address, Security()).open()


def test_a_tls_context_is_passed_on_as_it_is():
    """It cannot be copied, and need not be."""
    context = ssl.create_default_context()
    options = Security(security_protocol="SSL", ssl_context=context).options()
    assert options == {"security_protocol": "SSL", "ssl_context": context}
