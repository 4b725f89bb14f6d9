"""Names are looked up beside everything else: one that hangs delays no other service, and keeps no process alive."""

import asyncio
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from coordinator.errors import Unavailable
from participants.http import Delivery, Key
from participants.http.service import Bounds, Service
from tests.integration.http.server import Answers, serving

KEY = Key("2026-11", b"s" * 32)
DELIVERY = Delivery(gid="unan-1", step="charge", direction="action")
HERE = ["127.0.0.1/32", "::1/128"]


@pytest.fixture
def sick(monkeypatch):
    """A name server that does not answer about *sick.test*: those who ask it, until they may go on."""
    asked, answered, real = [], threading.Event(), socket.getaddrinfo

    def looked_up(host, *arguments, **options):
        if host != "sick.test":
            return real(host, *arguments, **options)
        asked.append(host)
        answered.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    yield SimpleNamespace(asked=asked, answered=answered)
    answered.set()


async def test_a_name_that_hangs_delays_no_call_of_another_service(sick):
    """However many calls wait for it, they take a few threads, of their own service."""
    bounds = Bounds(connect_s=2.0)
    async with (
        serving(Answers((200, {}, b"{}"))) as port,
        Service("sick", "https://sick.test", KEY, bounds=bounds) as hanging,
        Service("well", f"http://localhost:{port}", KEY, networks=HERE) as well,
    ):
        waiting = [asyncio.create_task(hanging.send("/charge", b"{}", DELIVERY)) for _ in range(64)]
        while not sick.asked:  # noqa: ASYNC110 - the threads have no event for it.
            await asyncio.sleep(0.01)
        async with asyncio.timeout(1.0):
            assert await well.send("/charge", b"{}", DELIVERY) == b"{}"
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in told} == {Unavailable}
        assert len(sick.asked) <= 4


async def test_a_name_is_looked_up_for_each_connection_as_often_as_there_is_one(sick):
    """Each lookup gives its thread back, whether or not there was an answer."""
    async with (
        serving(app := Answers((200, {"Connection": "close"}, b"{}"))) as port,
        Service("well", f"http://localhost:{port}", KEY, networks=HERE) as well,
        Service("sick", "https://sick.test", KEY) as hanging,
    ):
        sick.answered.set()
        for _ in range(10):
            assert await well.send("/charge", b"{}", DELIVERY) == b"{}"
            with pytest.raises(Unavailable, match="no answer"):
                await hanging.send("/charge", b"{}", DELIVERY)
    assert len({scope["client"] for scope, _ in app.requests}) == 10
    assert len(sick.asked) == 10


HANGS = """
import asyncio, socket, threading
from participants.http import Delivery, Key
from participants.http.service import Bounds, Service

async def main():
    async with Service("sick", "https://sick.test", Key("k", b"s" * 32), bounds=Bounds(connect_s=0.2)) as sick:
        try:
            await sick.send("/", b"", Delivery(gid="unan-1", step="charge", direction="action"))
        except Exception as failure:
            print(type(failure).__name__)

socket.getaddrinfo = lambda *arguments, **options: threading.Event().wait(600)
asyncio.run(main())
"""


def test_a_name_that_hangs_keeps_no_process_alive():
    """It cannot be called off, and is left behind."""
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "Unavailable\n"
