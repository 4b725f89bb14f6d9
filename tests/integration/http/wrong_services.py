"""A service in memory that keeps the contract, and one way for each of its rules to break it."""

import asyncio
import hashlib
import json
import time
import uuid
from collections import Counter
from urllib.parse import parse_qs, unquote

from participants.http import Delivery, Forged, Key, SignedRequests, Verifier
from participants.http.asgi import _DELIVERY
from participants.http.signing import STEP

FLAWS = {
    "lets everybody in": "forged",
    "does not look at the body's hash": "forged",
    "answers what is forged with 404": "forged",
    "takes the first of two headers": "header that is there twice",
    "takes the last of two headers": "header that is there twice",
    "does not look at the time": "old request",
    "does not sign the path": "signature of an action",
    "dedupes by attempt": "duplicate has no effect",
    "dedupes nothing": "duplicate has no effect",
    "answers a duplicate with 409": "duplicate has no effect",
    "takes another payload": "another payload",
    "refuses to undo nothing": "compensation of nothing",
    "lets a late action in": "compensation of nothing",
    "undoes twice": "its duplicates do nothing",
    "looks before it waits": "simultaneous duplicates",
    "lets an action go on while it is undone": "meets its compensation",
    "listens to whoever was replaced": "replaced",
    "refuses whoever was replaced with 409": "replaced",
    "verifies the step's name decoded": "signed action is done once",
    "splits the key for idempotency at its colons": "signed action is done once",
    "dedupes by gid alone": "two steps",
    "dedupes by term": "duplicate has no effect",
    "undoes only what its own term did": "its duplicates do nothing",
    "refuses whoever took over": "its duplicates do nothing",
    "compares terms as text": "replaced",
    "answers 503 without a Retry-After": "simultaneous duplicates",
    "breaks at a body that is no JSON": "no json",
    "breaks where it should refuse": "refusal stays",
    "forgets that it refused": "refusal stays",
    "says never of what was done": "told with its output",
    "tells no output": "told with its output",
    "does not remember who asked": "told with its output",
    "says never and does it later": "told to be never",
    "says never of what is under way": "meets its action",
    "says done of what was refused": "not told to be done",
    "tells everybody": "question that is forged",
}
"""Each flaw, and a part of the name of the check that finds it."""


class _NoPath(Verifier):
    def verify(self, method, path, headers, body, now):
        for each in (path, "/charge", "/undo"):
            try:
                return super().verify(method, each, headers, body, now)
            except Forged as forged:
                last = forged
        raise last


class _DecodedStep(Verifier):
    """Lets the framework decode what stands in a header before it looks at the signature."""

    def verify(self, method, path, headers, body, now):
        return super().verify(method, path, {**headers, STEP: unquote(headers.get(STEP, ""))}, body, now)


class _NoBody(Verifier):
    """Takes the hash of the body from whoever signed: here, of the only body that the tests send."""

    def verify(self, method, path, headers, body, now):
        return super().verify(method, path, headers, body.rstrip(b" "), now)


class Terms:
    """The highest term of each step."""

    def __init__(self, flaw):
        self.highest, self.flaw = {}, flaw

    def outdated(self, origin, term):
        """Whether a higher one was here."""
        known = self.highest.setdefault(origin, term)
        self.highest[origin] = max(known, term, key=str if self.flaw == "compares terms as text" else int)
        return self.highest[origin] != term or (known != term and self.flaw == "refuses whoever took over")


class InMemory:
    """The records of the steps, and how many effects of each gid stand."""

    def __init__(self, flaw=None):
        self.flaw = flaw
        self.records, self.effects, self.terms = {}, Counter(), Terms(flaw)
        self.lock = asyncio.Lock()

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/effects":
            gid = parse_qs(scope["query_string"].decode())["gid"][0]
            return await self.answer(send, 200, self.effects[gid])
        body = (await receive())["body"]
        delivery = scope[_DELIVERY]
        try:
            refuses = json.loads(body).get("refuse", False)
        except (ValueError, RecursionError, AttributeError):
            return await self.answer(send, 500 if self.flaw == "breaks at a body that is no JSON" else 422, {})
        if self.flaw == "answers 503 without a Retry-After" and self.lock.locked():
            return await self.answer(send, 503, {"reason": "another request is in the way"})
        if self.flaw == "says never of what is under way" and delivery.direction == "status" and self.lock.locked():
            return await self.answer(send, 200, {"status": "never"})
        if self.flaw in ("looks before it waits", "lets an action go on while it is undone"):
            status, value = await self.serve(delivery, body, refuses)
        else:
            async with self.lock:
                # So that others meet it here.
                await asyncio.sleep(0.05 if self.flaw == "says never of what is under way" else 0.001)
                status, value = await self.serve(delivery, body, refuses)
        return await self.answer(send, status, value)

    async def answer(self, send, status, value):
        content = json.dumps(value).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content})

    async def serve(self, delivery, body, refuses):
        """Every rule in one place; each flaw leaves one of them out."""
        flaw, origin, direction = self.flaw, *self.about(delivery)
        acts, key, mark = direction == "action", (*origin, direction), (*origin, "state")
        if flaw in ("dedupes by attempt", "dedupes by term"):
            key = (*key, delivery.attempt if flaw == "dedupes by attempt" else delivery.term)
        if direction == "status" and flaw == "does not remember who asked":
            return self.tell(origin)
        if self.terms.outdated(origin, delivery.term) and flaw != "listens to whoever was replaced":
            return 409 if flaw == "refuses whoever was replaced with 409" else 412, {"reason": "replaced"}
        if direction == "status":
            return self.tell(origin)
        if flaw == "undoes only what its own term did":
            mark = (*mark, delivery.term)
        state, known = self.records.get(mark), self.records.get(key)
        if acts and state == "undone" and flaw != "dedupes nothing":
            return 409, {"reason": "undone before"}
        if known is not None and flaw not in ("dedupes nothing", "undoes twice" if not acts else ""):
            return self.again(known, body)
        if flaw == "looks before it waits":
            await asyncio.sleep(0.01)
        if flaw == "lets an action go on while it is undone" and acts:
            known = self.records.setdefault((*origin, "held"), asyncio.Lock())
            async with known:
                if key in self.records:
                    return self.again(self.records[key], body)
                await asyncio.sleep(0.1)  # Long enough for the compensation that was sent with it.
                return self.record(key, body, self.refuse(key, body) if refuses else self.act(mark))
        if acts and refuses:
            return self.refuse(key, body)
        return self.record(key, body, self.act(mark) if acts else self.undo(mark, state))

    def about(self, delivery):
        """Which step it is about, and what is to be done."""
        if self.flaw == "splits the key for idempotency at its colons":
            gid, step, direction, *_ = delivery.idempotency_key.split(":")
            return (gid, step), direction
        return (delivery.gid, "" if self.flaw == "dedupes by gid alone" else delivery.step), delivery.direction

    def tell(self, origin):
        """What became of an action; of one that is not here, that it never will be."""
        known = self.records.get((*origin, "action"))
        if known is None and self.flaw != "says never and does it later":
            self.records[(*origin, "state")] = "undone"
        if known is None or self.flaw == "says never of what was done":
            return 200, {"status": "never"}
        status, output = known[1]
        if status != 200 and self.flaw != "says done of what was refused":
            return 200, {"status": "never"}
        return 200, {"status": "done"} if self.flaw == "tells no output" else {"status": "done", "output": output}

    def record(self, key, body, answer):
        if answer[0] == 200:
            self.records[key] = (hashlib.sha256(body).digest(), answer)
        return answer

    def again(self, known, body):
        digest, answer = known
        if digest != hashlib.sha256(body).digest() and self.flaw != "takes another payload":
            return 422, {"reason": "another payload"}
        return (409, {"reason": "came before"}) if self.flaw == "answers a duplicate with 409" else answer

    def refuse(self, key, body):
        answer = (500 if self.flaw == "breaks where it should refuse" else 409, {"reason": uuid.uuid4().hex})
        if self.flaw != "forgets that it refused":
            self.records[key] = (hashlib.sha256(body).digest(), answer)
        return answer

    def act(self, mark):
        self.effects[mark[0]] += 1
        self.records[mark] = "done"
        return 200, {"id": uuid.uuid4().hex}

    def undo(self, mark, state):
        if state is None and self.flaw == "refuses to undo nothing":
            return 404, {"reason": "not found"}
        if state is None and self.flaw == "lets a late action in":
            return 200, {}
        self.records[mark] = "undone"
        if state == "done" or (self.flaw == "undoes twice" and state == "undone"):
            self.effects[mark[0]] -= 1
        return 200, {}


class _Unverified:
    """Believes the headers."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["path"] != "/effects":
            scope[_DELIVERY] = Delivery(
                gid=headers["unanimity-gid"],
                step=headers["unanimity-step"],
                direction=headers["unanimity-direction"],
                attempt=int(headers["unanimity-attempt"]),
                term=int(headers["unanimity-term"]),
            )
        await self.app(scope, receive, send)


class Around:
    """What stands before an application that keeps the rules, and makes it break one."""

    def __init__(self, app, flaw):
        self.app, self.flaw = app, flaw

    async def __call__(self, scope, receive, send):
        if self.flaw == "takes the last of two headers":
            scope["headers"] = list(dict(scope["headers"]).items())
        if self.flaw == "takes the first of two headers":
            scope["headers"] = list(dict(reversed(scope["headers"])).items())

        async def hide(message):
            hidden = self.flaw == "answers what is forged with 404" and message.get("status") == 401
            await send({**message, "status": 404} if hidden else message)

        await self.app(scope, receive, hide)


def service(key: Key, flaw=None):
    """The application, with *flaw* if one is given."""
    app = InMemory(flaw)
    open_paths = ["/effects"]
    if flaw == "lets everybody in":
        return _Unverified(app)
    if flaw == "tells everybody":
        app, open_paths = _Unverified(app), ["/effects", "/status"]
    kind = {
        "does not sign the path": _NoPath,
        "does not look at the body's hash": _NoBody,
        "verifies the step's name decoded": _DecodedStep,
    }.get(flaw, Verifier)
    window_s = 10**9 if flaw == "does not look at the time" else 300
    return Around(SignedRequests(app, kind([key], window_s=window_s), open_paths=open_paths, now=time.time), flaw)
