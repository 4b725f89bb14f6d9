"""A service in memory whose reservations keep the contract, and one way for each of its rules to break it."""

import asyncio
import json
import time
from collections import Counter
from urllib.parse import parse_qs

from participants.http import Key, SignedRequests, Verifier
from tests.integration.http.server import whole
from tests.integration.http.wrong_services import Around, Terms

FLAWS = {
    "lets everybody in": "forged",
    "lists to everybody": "forged",
    "does not sign the path": "forged",
    "answers what is forged with 404": "forged",
    "takes the first of two headers": "forged",
    "takes the last of two headers": "forged",
    "reserves at every try": "duplicate of a try",
    "answers a duplicate with 409": "duplicate of a try",
    "confirms twice": "is one effect",
    "has its effect at the try": "is one effect",
    "lists nothing": "is one effect",
    "lists what is confirmed": "is one effect",
    "tells no age": "is one effect",
    "lists what is cancelled": "leaves nothing",
    "reserves by gid alone": "two reservations",
    "lists what is of other steps": "two reservations",
    "lists the newest first": "oldest first",
    "counts what has another prefix": "oldest first",
    "comes back to life": "leaves nothing",
    "refuses to cancel nothing": "cancellation of nothing",
    "lets a late try in": "cancellation of nothing",
    "confirms nothing": "confirmation of nothing",
    "confirms what was cancelled": "confirmation after",
    "refuses to confirm what was cancelled": "confirmation after",
    "cancels what was confirmed": "cancellation after",
    "does not say how it had ended": "cancellation after",
    "looks before it waits": "at once agree",
    "lets a try go on while it is cancelled": "meets its cancellation",
    "refuses whoever took over": "is one effect",
    "compares terms as text": "is one effect",
    "holds what it refuses": "refused reserves nothing",
}
"""Each flaw, and a part of the name of the check that finds it."""


class _NoPath(Verifier):
    def verify(self, method, path, headers, body, now):
        return super().verify(method, path.partition("?")[0], headers, body, now)


class InMemory:
    """How each reservation stands, in the order in which they were tried, and how many effects."""

    def __init__(self, flaw=None):
        self.flaw, self.states, self.effects, self.lock = flaw, {}, Counter(), asyncio.Lock()
        self.terms, self.tried_at = Terms(flaw), {}

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/effects":
            gid = parse_qs(scope["query_string"].decode())["gid"][0]
            return await self.answer(send, 200, self.effects[gid])
        body = await whole(receive)
        headers = dict(scope["headers"])
        gid, step = (headers[f"unanimity-{name}".encode()].decode() for name in ("gid", "step"))
        key = (gid, "" if self.flaw == "reserves by gid alone" else step)
        what = scope["path"].rpartition("/")[2]
        if what == "pending":
            return await self.answer(send, 200, {"pending": self.pending(key[1], **json.loads(body))})
        if self.terms.outdated(key, int(headers[b"unanimity-term"])):
            return await self.answer(send, 409 if self.flaw == "refuses whoever took over" else 412, {})
        pauses = {"looks before it waits": ("confirm", "cancel"), "lets a try go on while it is cancelled": ("try",)}
        if what in pauses.get(self.flaw, ()):
            state = self.states.get(key)
            await asyncio.sleep(0.05)  # Long enough for the one that was sent with it.
            return await self.answer(send, *self.serve(what, key, state, body))
        async with self.lock:
            return await self.answer(send, *self.serve(what, key, self.states.get(key), body))

    async def answer(self, send, status, value):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})

    def serve(self, what, key, state, body):
        """One endpoint."""
        if what == "try":
            return self.reserve(key, state, refuses=json.loads(body).get("refuse", False))
        return self.end(what, key, state)

    def pending(self, step, prefix, limit):
        """What is reserved; each flaw has another opinion of it."""
        flaw = self.flaw
        listed = {
            "lists what is confirmed": ("reserved", "confirmed"),
            "lists what is cancelled": ("reserved", "cancelled"),
        }
        found = [key for key, state in self.states.items() if state in listed.get(flaw, ("reserved",))]
        if flaw == "lists the newest first":
            found.reverse()
        if flaw == "counts what has another prefix":
            found = found[:limit]
        if flaw != "lists what is of other steps":
            found = [key for key in found if key[1] == step]
        ages = {key: {} if flaw == "tells no age" else {"age_s": time.time() - self.tried_at[key]} for key in found}
        listed = [{"gid": key[0], **ages[key]} for key in found if key[0].startswith(prefix)]
        return [] if flaw == "lists nothing" else listed[:limit]

    def reserve(self, key, state, *, refuses):
        self.tried_at.setdefault(key, time.time())
        if refuses:
            self.states[key] = "reserved" if self.flaw == "holds what it refuses" else "refused"
            return 409, {"reason": "sold out"}
        if state == "cancelled" and self.flaw not in ("comes back to life", "lets a late try in"):
            return 409, {"reason": "it was cancelled"}
        if state is not None and self.flaw == "answers a duplicate with 409":
            return 409, {"reason": "it came before"}
        self.states[key] = "reserved"
        if self.flaw == "has its effect at the try" or (state is not None and self.flaw == "reserves at every try"):
            self.effects[key[0]] += 1
        return 200, {}

    def end(self, what, key, state):
        flaw, wanted = self.flaw, {"confirm": "confirmed", "cancel": "cancelled"}[what]
        if state is None and (what == "confirm" or flaw == "refuses to cancel nothing") and flaw != "confirms nothing":
            return 404, {"reason": "not found"}
        if state is None and flaw == "lets a late try in":
            return 200, {}
        other = {"confirm": "cancelled", "cancel": "confirmed"}[what]
        if state == other and flaw == f"{what}s what was {other}":
            state = "reserved"
            self.effects[key[0]] = 0
        if state == other and flaw == f"refuses to {what} what was {other}":
            return 409, {"reason": "it is over"}
        if state == other:
            ended = {"confirmed": "committed", "cancelled": "aborted"}[state]
            return 200, {} if flaw == "does not say how it had ended" else {"ended": ended}
        if what == "confirm" and (state != "confirmed" or flaw == "confirms twice"):
            self.effects[key[0]] += 1
        self.states[key] = wanted
        return 200, {}


def service(key: Key, flaw=None):
    """The application, with *flaw* if one is given."""
    app = InMemory(flaw)
    if flaw == "lets everybody in":
        return app
    open_paths = ["/effects", *(["/r/pending"] if flaw == "lists to everybody" else [])]
    verifier = (_NoPath if flaw == "does not sign the path" else Verifier)([key])
    return Around(SignedRequests(app, verifier, open_paths=open_paths), flaw)
