"""A service with a certificate: it is called by its name, at an address that was looked at, and nobody else is."""

import asyncio
import re
import ssl
from contextlib import asynccontextmanager

import pytest

from coordinator import Coordinator
from coordinator.errors import Compensated, Disconnected, Refused, Unavailable
from coordinator.sagas import Attempts, Saga, step
from participants.http import Delivery, Key
from participants.http.service import Bounds, Service
from tests.integration.http.certificates import Authority
from tests.integration.http.server import canary, message
from tests.integration.http.test_canary import names

KEY = Key("2026-11", b"s" * 32)
DELIVERY = Delivery(gid="unan-1", step="charge", direction="action")
NAME, GOOD, FORBIDDEN = "payments.example", "127.0.0.2", "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
OK_AND_CLOSE = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Server:
    """What it was asked: the name in each handshake, the `Host` of each request, and over how many connections."""

    def __init__(self, context, answer=OK):
        self.answer = answer
        self.handshakes, self.hosts, self.connections = [], [], 0
        context.sni_callback = lambda connection, name, context: self.handshakes.append(name)

    async def serve(self, reader, writer):
        self.connections += 1
        while self.answer and (request := await message(reader)):
            self.hosts += re.findall(rb"\r\nHost: ([^\r]*)", request)
            writer.write(self.answer)
        writer.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Whom the coordinator trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def served(context, port=0, **options):
    """A server at `GOOD`, with its port."""
    server = Server(context, **options)
    listening = await asyncio.start_server(server.serve, GOOD, port, ssl=context)
    try:
        yield server, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


def payments(port, tls, resolve=None, **bounds):
    return Service(
        "payments", f"https://{NAME}:{port}", KEY, networks=[f"{GOOD}/32"], tls=tls,
        resolve=resolve or names([GOOD]), bounds=Bounds(**bounds),
    )  # fmt: skip


async def test_the_name_is_in_the_handshake_and_the_host_and_the_connection_is_used_again(authority):
    async with (
        served(authority.serving(NAME)) as (server, port),
        payments(port, authority.trusting(), resolve=(resolve := names([GOOD]))) as service,
    ):
        for _ in range(5):
            await service.send("/charge", b"{}", DELIVERY)
    assert server.handshakes == [NAME]
    assert server.hosts == [f"{NAME}:{port}".encode()] * 5
    assert server.connections == 1
    assert resolve.asked == [NAME]


async def test_each_connection_goes_where_its_own_only_answer_of_the_name_was_looked_at(authority):
    """A name that changes its mind between two questions is asked one question for each connection."""
    async with (
        canary(FORBIDDEN) as (port, visitors),
        served(authority.serving(NAME), port=port, answer=OK_AND_CLOSE) as (server, _),
    ):
        resolve = names([GOOD], [GOOD], [FORBIDDEN], [GOOD, FORBIDDEN], [GOOD])
        async with payments(port, authority.trusting(), resolve=resolve) as service:
            for _ in range(2):
                await service.send("/charge", b"{}", DELIVERY)
            for _ in range(2):
                with pytest.raises(Refused, match="may not be called"):
                    await service.send("/charge", b"{}", DELIVERY)
            await service.send("/charge", b"{}", DELIVERY)
        assert len(resolve.asked) == 5
        assert server.connections == 3
        assert server.handshakes == [NAME] * 3
        assert visitors == []


WRONG = {
    "another name": (lambda own, other: own.serving("stock.example"), "Hostname mismatch.* a certificate for this one"),
    "another authority": (
        lambda own, other: other.serving(NAME),
        "unable to get local issuer.*`tls=ssl.create_default",
    ),
    "expired": (lambda own, other: own.serving(NAME, days=0), "certificate has expired.*renew it"),
    "no TLS": (lambda own, other: None, "no TLS at payments.example:.*correct the scheme or port"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_certificate_is_refused_with_what_to_do_and_nothing_was_sent(authority, tmp_path, wrong):
    make, said = WRONG[wrong]
    context = make(authority, Authority(tmp_path, "another"))
    await asyncio.sleep(1.1 if wrong == "expired" else 0)  # A certificate has its end in seconds.
    async with at_good(context) as (requests, port), payments(port, authority.trusting()) as service:
        with pytest.raises(Unavailable, match=f"(?s)payments cannot be reached: .*{said}") as raised:
            await service.send("/charge", b"{}", DELIVERY)
    assert type(raised.value) is Unavailable
    assert raised.value.participant == "payments"
    assert requests == []


@asynccontextmanager
async def at_good(context):
    """A server at `GOOD` that keeps what it was sent."""
    requests = []

    async def serve(reader, writer):
        if context is None:
            await reader.read(5)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        elif sent := await reader.read(65536):
            requests.append(sent)
        writer.close()

    listening = await asyncio.start_server(serve, GOOD, 0, ssl=context)
    try:
        yield requests, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def test_a_certificate_of_nobody_is_refused_where_no_context_is_given(authority):
    """The authorities of this machine are those that count then."""
    async with served(authority.serving(NAME)) as (server, port), payments(port, None) as service:
        with pytest.raises(Unavailable, match="certificate is refused"):
            await service.send("/charge", b"{}", DELIVERY)
    assert server.hosts == []


async def test_a_handshake_that_is_never_answered_means_that_nothing_happened(authority):
    async def silent(reader, writer):
        await reader.read(-1)
        writer.close()

    listening = await asyncio.start_server(silent, GOOD, 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        async with payments(port, authority.trusting(), connect_s=0.2, answer_s=5.0) as service:
            with pytest.raises(Unavailable):
                await service.send("/charge", b"{}", DELIVERY)


async def test_a_connection_that_breaks_after_its_handshake_means_that_nobody_knows(authority):
    async with (
        served(authority.serving(NAME), answer=b"") as (_, port),
        payments(port, authority.trusting()) as service,
    ):
        with pytest.raises(Disconnected):
            await service.send("/charge", b"{}", DELIVERY)


async def test_a_service_that_asks_for_the_client_s_certificate_gets_it(authority, tmp_path):
    """Without it nobody knows: the service says no after the handshake, when the request may have been sent."""
    context, known = authority.serving(NAME), authority.trusting()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    known.load_cert_chain(*authority.certify("coordinator"))
    async with served(context) as (server, port):
        async with payments(port, authority.trusting()) as service:
            with pytest.raises(Disconnected):
                await service.send("/charge", b"{}", DELIVERY)
        assert server.hosts == []
        async with payments(port, known) as service:
            await service.send("/charge", b"{}", DELIVERY)
    assert len(server.hosts) == 1


async def test_a_step_waits_for_a_right_certificate_and_is_never_in_doubt(authority, tmp_path):
    """Nothing has happened: it is not asked about, has nothing to be undone, and is tried again."""
    wrong, right = Authority(tmp_path, "another").serving(NAME), authority.serving(NAME)
    handshakes, doubts = [], []

    def renewed(connection, name, context):
        handshakes.append(name)
        if len(handshakes) > 2:
            connection.context = right

    async def doubt(request):
        doubts.append(request)

    async with served(wrong) as (server, port), payments(port, authority.trusting()) as service:
        wrong.sni_callback = renewed
        for attempts, ending in ((2, "refused"), (1, "done")):
            retry = Attempts(at_most=attempts, backoff_s=0.01)
            charge = step(service.action("/charge"), compensate=doubt, status=doubt, retry=retry)
            async with Coordinator(journal=f"memory://tls-{ending}", sagas=[saga := Saga("s", charge)]) as coordinator:
                if ending == "refused":
                    with pytest.raises(Compensated, match="certificate is refused"):
                        await coordinator.run(saga, {})
                    assert server.hosts == []
                else:
                    assert (await coordinator.run(saga, {})).completed
    assert (len(handshakes), len(server.hosts), doubts) == (3, 1, [])
