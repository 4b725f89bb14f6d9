"""A service that is tested over HTTP: sending it signed requests, or forged ones, and looking at its effects."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import quote

import aiohttp

from coordinator.gids import new_gid
from participants.http.signing import Delivery, Key, signed_headers

_AGAIN, _UNAVAILABLE = (425, 429), 503
_ASKED_MAX = 20
_PAUSE_S = 0.05
STEP, OTHER_STEP = "take money/é", "take money"
"""A step may be called anything: what stands in the header is not what it is called, and one may begin like another."""
TERM = 9
"""The next one has two digits: it is the lower one for whoever compares them as text."""


class Wrong(Exception):
    """The service answered wrongly, or had an effect that it may not have."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and to what; two are equal where the same was answered."""

    status: int
    body: bytes
    sent: str = field(default="", compare=False)

    @property
    def done(self) -> bool:
        """Whether it says that it was done."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether it is a no that stays one."""
        return 400 <= self.status < 500 and self.status not in (408, *_AGAIN)

    @property
    def turned_away(self) -> bool:
        """Whether it says that the request is not the coordinator's."""
        return self.status == 401

    @property
    def outdated(self) -> bool:
        """Whether it says that a higher term was there before."""
        return self.status == 412

    def __str__(self) -> str:
        return f"{self.status} {self.body[:80]!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The service that is tested: an action and its compensation, or reservations, and where effects can be counted.

    *refused* is a body that an action (or a try) refuses. *status* is where it is asked what became of an action, or
    what is pending, and *reservation* what the four paths begin with.
    """

    session: aiohttp.ClientSession
    url: str
    key: Key
    action: str = ""
    undo: str = ""
    status: str = ""
    reservation: str = ""
    body: bytes
    refused: bytes | None = None
    effects_path: str | None = None

    def path_of(self, direction: str) -> str:
        """Where a delivery goes."""
        match direction:
            case "action":
                return self.action
            case "compensation":
                return self.undo
            case "status":
                return self.status
            case _:
                return f"{self.reservation}/{direction}"

    async def send(
        self,
        delivery: Delivery,
        body: bytes | None = None,
        *,
        key: Key | None = None,
        age_s: int = 0,
        changed: Mapping[str, str | None] | None = None,
        before: Mapping[str, str] | None = None,
        after: Mapping[str, str] | None = None,
        sent_body: bytes | None = None,
        path: str | None = None,
    ) -> Answer:
        """Sign and send; then again while it is asked for more time.

        *changed* are headers other than were signed; *before* and *after* are sent beside those that were.
        """
        signed_path = self.path_of(delivery.direction)
        content = self.body if body is None else body
        for _ in range(_ASKED_MAX):
            at = int(time.time()) - age_s
            signed = signed_headers(key or self.key, delivery, "POST", signed_path, content, at)
            headers = {name: value for name, value in {**signed, **(changed or {})}.items() if value is not None}
            headers["Content-Type"] = "application/json"
            lines = [*(before or {}).items(), *headers.items(), *(after or {}).items()]
            async with self.session.post(
                f"{self.url}{path or signed_path}",
                data=content if sent_body is None else sent_body,
                headers=lines,
                allow_redirects=False,
            ) as answer:
                sent = f"POST {path or signed_path}: {_described(delivery)}"
                found = Answer(answer.status, await answer.read(), sent)
            if found.status == _UNAVAILABLE and "Retry-After" not in answer.headers:
                raise Wrong(
                    "503 says that nothing happened only with a Retry-After; a proxy answers it without\n"
                    f"sent: {sent}\nanswered: {found}"
                )
            if found.status not in (*_AGAIN, _UNAVAILABLE):
                return found
            await asyncio.sleep(_PAUSE_S)
        raise Wrong(f"it was asked {_ASKED_MAX} times, and always wanted to be asked again: {found}")

    async def expect_effects(self, delivery: Delivery, count: int, when: str) -> None:
        """Count the effects, where they can be counted."""
        if self.effects_path is None:
            return
        path = self.effects_path.replace("{gid}", quote(delivery.gid, safe=""))
        async with self.session.get(f"{self.url}{path}") as answer:
            found = int(await answer.text())
        if found != count:
            raise Wrong(f"{when}: {found} effects stand, and it should be {count}\nsaid by: GET {path}")


def fresh(direction: str = "action") -> Delivery:
    """The first delivery of a new transaction's step, with an id such as coordinators make, as long as they may be."""
    gid = new_gid("contracttest", datetime.fromtimestamp(time.time(), UTC), uuid.uuid4().bytes)
    return Delivery(gid=gid, step=STEP, direction=direction, term=TERM)


def taken_over(delivery: Delivery, direction: str | None = None, *, times: int = 1) -> Delivery:
    """*delivery*, or another one about its step, as sent by who took over from its sender: the term is higher."""
    return replace(delivery, direction=direction or delivery.direction, term=delivery.term + times)


def expect(holds: bool, what: str, answer: Answer) -> None:
    """Raise `Wrong` unless it holds."""
    if not holds:
        raise Wrong(f"{what}\nsent: {answer.sent}\nanswered: {answer}")


def _described(delivery: Delivery) -> str:
    step = quote(delivery.step, safe="")
    return f"{delivery.direction} of {delivery.gid}, step {step}, attempt {delivery.attempt}, term {delivery.term}"
