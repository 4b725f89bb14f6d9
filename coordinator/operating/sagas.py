"""Sagas as operators see them: where one is, its story, and what an operator may say to it.

Their definitions are not here, so everything is told from what their log says. Pure, but for `steer`.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from coordinator.engine.saga_signals import CANCEL, RESUME, RETRY, SKIP, WORDS, say
from coordinator.errors import Refused
from coordinator.gids import issued_at
from coordinator.operating.ledger import Ledger, Row, open_ledger
from coordinator.operating.story import Line
from coordinator.settings import load
from coordinator.stores import open_stores

STATES = ("unfinished", "finished", "parked", "stranded", "all")
_LOOK_EVERY_S = 0.2
_TOLD = {
    "done": "{step} was done",
    "refused": "{step} did not happen, and never will: {reason}",
    "unknown": "nobody knows whether {step} happened: {reason}",
    "undone": "{step} was undone",
    "stuck": "{step} could not be brought to an end: {reason}",
    "cancelled": "it was called off: {reason}",
    "resumed": "an operator let it go on: {reason}",
    "skipped": "an operator took {step} on himself: {reason}",
}
_TURNS_BACK = frozenset({"refused", "unknown", "cancelled"})
_STOPS = frozenset({"refused", "unknown", "stuck"})
_SIGNALS = {
    CANCEL: "an operator, or the service, asked to call it off",
    RESUME: "somebody resumed it",
    SKIP: "somebody took on himself what it is parked at",
    RETRY: "somebody asked it to try again at once",
}


def listed(row: Mapping[str, Any]) -> Row:
    """A row of `Ledger.sagas` in words."""
    shown = dict(row) | {"state": state(row), "steps": sum(event["t"] == "done" for event in row["events"])}
    return {name: value for name, value in shown.items() if name != "events"}


def wanted(row: Mapping[str, Any], which: str) -> bool:
    """Whether a saga is one of those in state *which*."""
    match which:
        case "parked":
            return parked_at(row) is not None
        case "stranded":
            return not row["ended"] and not row["known"]
        case "unfinished":
            return not row["ended"]
        case "finished":
            return bool(row["ended"])
        case _:
            return True


def state(row: Mapping[str, Any]) -> str:
    """Where a saga is, in a few words."""
    kinds = [event["t"] for event in row["events"]]
    if row["ended"]:
        if not _TURNS_BACK & set(kinds):
            return "completed"
        return "compensated" if "undone" in kinds or kinds[-1] in _TURNS_BACK else "ended"
    if (step := parked_at(row)) is not None:
        return f"parked at {step}: waits for an operator"
    if not row["known"]:
        return f"stranded: no live process has {row['definition']}"
    if row["owner"]:
        return "running" if row["owner_lives"] else "left by a process that ended; taken over within a lease"
    return "waits for a signal" if row["wake_at"] is None else "waits for its time"


def parked_at(row: Mapping[str, Any]) -> str | None:
    """The step at which a saga is parked; None where it is not.

    It sleeps without a time, and the last that happened to it left no way on: nothing else looks like that.
    """
    if row["ended"] or row["owner"] or row["wake_at"] is not None or not row["events"]:
        return None
    last = row["events"][-1]
    return str(last["s"]) if last["t"] in _STOPS else None


def refuse_vain(row: Mapping[str, Any], signal: str, step: str = "") -> None:
    """Raise `Refused`, with the remedy, where it can be seen from here that nothing would come of the word."""
    gid, parked = row["gid"], parked_at(row)
    if signal == RETRY and parked is not None:
        raise Refused(f"{gid} is parked at {parked!r}: `coordinator sagas resume` has it tried again", gid=gid)
    if signal == RETRY and not row["ended"] and not row["owner"]:
        raise Refused(f"{gid} is not being tried now ({state(row)})", gid=gid)
    if signal == CANCEL and parked is not None and _past_return(row["events"]):
        raise Refused(f"{gid} cannot be called off: {no_way_back(parked)}", gid=gid)
    if signal == CANCEL:
        _refuse_past_pivot(row)
    if signal in (RESUME, SKIP) and parked is None:
        raise Refused(f"{gid} is not parked: there is nothing to {WORDS[signal].split()[1]}", gid=gid)
    if signal == SKIP and parked != step:
        raise Refused(f"{gid} is parked at {parked!r}, not at {step!r}", gid=gid)


def no_way_back(step: str) -> str:
    """Why a saga that is parked at *step* is not called off, as far as it can be told without its definition."""
    return f"its pivot is done, or it is being undone already. Resume it, or skip {step} (where it is parked)"


def _past_return(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it has turned back, or was refused where there is no way back. (False where that cannot be seen.)"""
    turned = (
        this["t"] in _TURNS_BACK and that["t"] not in ("resumed", "skipped", "cancelled")
        for this, that in pairwise(events)
    )
    return any(turned) or events[-1]["t"] == "refused"


def _refuse_past_pivot(row: Mapping[str, Any]) -> None:
    """Raise `Refused` where its pivot is done. (Not where no process has told what that is.)"""
    if any(event["t"] in ("done", "skipped") and event["s"] == row["pivot"] for event in row["events"]):
        gid, parked = row["gid"], parked_at(row)
        remedy = "" if parked is None else f". Resume it, or skip {parked} (where it is parked)"
        raise Refused(
            f"{gid} cannot be called off: its pivot, {row['pivot']}, is done, and it only goes forward{remedy}", gid=gid
        )


def tell(row: Mapping[str, Any]) -> list[Line]:
    """The story of what `Ledger.saga` returned, in the order of time, and then what is so now."""
    past = sorted(_past(row), key=lambda line: line.at.timestamp() if line.at else 0.0)
    return [*past, *(Line(None, what) for what in _present(row))]


async def steer(url: str, gid: str, signal: str, *, by: str, reason: str, step: str = "") -> None:
    """Send a saga an operator's word; a process that has its definition hears it. Returns once it is durable.

    Raises `Refused` where it has ended or never was.
    """
    async with open_stores(url, load()) as stores:
        await say(stores.sagas, stores.alerts, gid, signal, by=by, reason=reason, step=step)


async def moved(url: str, before: Row, *, within_s: float) -> bool:
    """Whether a parked saga has gone on from where it was *before*, or nobody is there that could have told it to."""
    until_s = asyncio.get_running_loop().time() + within_s
    async with open_ledger(url, "journal", "sagas") as ledger:
        while (now := await ledger.saga(before["gid"]))["known"] and len(now["events"]) == len(before["events"]):
            if asyncio.get_running_loop().time() > until_s:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
    return True


async def called_off(url: str, gid: str, *, within_s: float) -> bool:
    """Whether a saga has turned back; False where that is not known after so many seconds, or nobody can hear a word.

    Raises `Refused` where its pivot, or all of it, was done before the word was heard.
    """
    until_s = asyncio.get_running_loop().time() + within_s
    async with open_ledger(url, "journal", "sagas") as ledger:
        while True:
            now = await ledger.saga(gid)
            _refuse_past_pivot(now)
            if _TURNS_BACK & {event["t"] for event in now["events"]}:
                return True
            if now["ended"]:
                raise Refused(f"{gid} ended before the word was heard: {state(now)}", gid=gid)
            if not now["known"] or asyncio.get_running_loop().time() > until_s:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)


async def found(ledger: Ledger, which: str, *, name: str, limit: int) -> Sequence[Row]:
    """Sagas in state *which*, the oldest first while they are unfinished, else the newest."""
    at_most = None if which in ("parked", "stranded") else limit  # Those are told apart only here.
    rows = await ledger.sagas(which == "finished", which == "all", name=name, limit=at_most)
    return [listed(row) for row in rows if wanted(row, which)][:limit]


def _past(row: Mapping[str, Any]) -> Iterator[Line]:
    key = f", key {row['key']!r}" if row["key"] is not None else ""
    yield Line(issued_at(row["gid"]), f"{row['name']} began, pinned to {row['definition']}{key}")
    for at, event in zip(row["times"], row["events"], strict=False):  # While these were read, more may have happened.
        yield Line(at, _happened(event))
    for signal in row["signals"]:
        yield Line(signal["at"], _SIGNALS.get(signal["name"], f"it was sent the signal {signal['name']!r}"))
    for alert in row["alerts"]:
        yield Line(alert["raised_at"], f"ALERT {alert['kind']}: {alert['detail']}")
    for entry in row["audit"]:
        about = f" {entry['detail']}" if entry["detail"] else ""
        yield Line(entry["at"], f"{entry['actor']} said {entry['action']}{about}: {entry['reason']}")


def _happened(event: Mapping[str, Any]) -> str:
    step = event.get("s", "")
    if event["t"] == "waiting":
        return f"{step} began to wait" + ("" if event["u"] is not None else ", for as long as it takes")
    text = _TOLD.get(event["t"], f"{event['t']} {step}").format(
        step=step, reason=event.get("r") or "no reason was given"
    )
    output = event.get("o")
    return text if output is None else f"{text}: {json.dumps(output)[:200]}"


def _present(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"now: {state(row)}"
    if row["wake_at"] is not None and not row["ended"]:
        yield f"it is looked at again at {row['wake_at']:%Y-%m-%d %H:%M:%S}"
    if (step := parked_at(row)) is not None:
        back = "" if _past_return(row["events"]) else ", or call it off, unless its pivot is done (`… cancel`)"
        yield f"resume it (`coordinator sagas resume`), or take {step} on yourself (`coordinator sagas skip`){back}"
    for alert in row["alerts"]:
        if alert["resolved_at"] is None:
            yield f"the alert {alert['kind']} is open"
