"""A listener that nothing may reach: not by a URL, a name that changes its mind, a redirect or the environment."""

import pytest

from coordinator.errors import InDoubt, Misconfigured, Refused
from participants.http import Delivery, Key
from participants.http.service import Service
from tests.integration.http.server import Answers, canary, serving
from tests.unit.http.test_addresses import hostile_urls

KEY = Key("2026-11", b"s" * 32)
DELIVERY = Delivery(gid="unan-1", step="charge", direction="action")
NAME = "payments.example"
GOOD, FORBIDDEN = "127.0.0.2", "127.0.0.1"


def names(*answers):
    """A resolver that answers with one list after the other, the last one for ever."""
    planned = list(answers)
    asked = []

    async def resolve(host, port):
        asked.append(host)
        return planned.pop(0) if len(planned) > 1 else planned[0]

    resolve.asked = asked
    return resolve


async def test_no_hostile_url_reaches_it():
    """Where a form is taken at all, sending to it must still lead nowhere."""
    async with canary() as (port, visitors):
        for url in hostile_urls(port):
            with pytest.raises((Misconfigured, Refused)):
                async with Service("payments", url, KEY, insecure=True, resolve=names([FORBIDDEN])) as payments:
                    await payments.send("/charge", b"{}", DELIVERY)
        assert visitors == []


@pytest.mark.parametrize(
    "addresses",
    [
        [FORBIDDEN],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        [GOOD, FORBIDDEN],
        [FORBIDDEN, GOOD],
    ],
    ids=str,
)
async def test_a_name_that_leads_elsewhere_is_not_called(addresses):
    async with canary() as (port, visitors):
        networks = [f"{GOOD}/32"]
        async with Service(
            "payments", f"http://{NAME}:{port}", KEY, insecure=True, networks=networks, resolve=names(addresses)
        ) as payments:
            with pytest.raises(Refused, match="may not be called"):
                await payments.send("/charge", b"{}", DELIVERY)
        assert visitors == []


async def test_a_name_that_changes_its_mind_is_caught_at_the_next_connection():
    """What was checked is what is connected to: the name is looked up once for each connection."""
    async with canary() as (port, visitors), serving(app := Answers((200, {}, b"{}")), GOOD, port):
        resolve = names([GOOD], [FORBIDDEN])
        async with Service(
            "payments", f"http://{NAME}:{port}", KEY, insecure=True, networks=[f"{GOOD}/32"], resolve=resolve
        ) as payments:
            await payments.send("/charge", b"{}", DELIVERY)
            await payments.send("/charge", b"{}", DELIVERY)
            assert resolve.asked == [NAME], "the second request used the first one's connection"
            await payments.close()
            with pytest.raises(Refused, match="may not be called"):
                await payments.send("/charge", b"{}", DELIVERY)
        assert visitors == []
        hosts = {dict(scope["headers"])[b"host"].decode() for scope, _ in app.requests}
        assert hosts == {f"{NAME}:{port}"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status):
    async with canary() as (port, visitors):
        for target in (f"http://{FORBIDDEN}:{port}/", f"//{FORBIDDEN}:{port}/", "http://169.254.169.254/latest"):
            async with (
                serving(app := Answers((status, {"Location": target}, b"")), GOOD) as served,
                Service("payments", f"http://{GOOD}:{served}", KEY, networks=["127.0.0.0/8"]) as payments,
            ):
                with pytest.raises(InDoubt, match=str(status)):
                    await payments.send("/charge", b"{}", DELIVERY)
            assert len(app.requests) == 1
        assert visitors == []


async def test_proxies_of_the_environment_are_not_used(monkeypatch, tmp_path):
    async with canary() as (port, visitors):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{FORBIDDEN}:{port}")
        (tmp_path / ".netrc").write_text(f"machine {GOOD} login ada password canary\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        async with (
            serving(app := Answers((200, {"Set-Cookie": "a=b"}, b"{}")), GOOD) as served,
            Service("payments", f"http://{GOOD}:{served}", KEY, networks=[f"{GOOD}/32"]) as payments,
        ):
            await payments.send("/charge", b"{}", DELIVERY)
            await payments.send("/charge", b"{}", DELIVERY)
        assert visitors == []
    for scope, _ in app.requests:
        assert not {b"authorization", b"cookie"} & {name for name, _ in scope["headers"]}


async def test_the_canary_sings():
    """It would be seen if it were reached."""
    async with canary() as (port, visitors):
        async with Service("payments", f"http://{FORBIDDEN}:{port}", KEY, networks=["127.0.0.0/8"]) as payments:
            with pytest.raises(InDoubt):
                await payments.send("/charge", b"{}", DELIVERY)
        assert len(visitors) == 1
