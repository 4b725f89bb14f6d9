"""Fault points: every external effect is wrapped once, here, so that a test can make it fail in four ways.

The cells of a point say where in the effect's life the fault strikes:

    before       the request is never sent
    reply_lost   it was carried out, and the caller sees an error instead of the answer
    after        the answer was seen, and then, before anything was recorded, the fault
    late         the caller gives up first, and the request is carried out afterwards

`boundary` is a plain function: disarmed it costs one test of a module global and hands back the effect's own awaitable.
The registry below is the one list of points; documentation, coverage matrix and command line are generated from it.
"""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Cell(StrEnum):
    """Where in the life of an effect a fault strikes."""

    BEFORE = "before"
    REPLY_LOST = "reply_lost"
    AFTER = "after"
    LATE = "late"


POINTS: Mapping[str, str] = MappingProxyType(
    {
        "journal.decide": "insert the decision or the intent, first insert wins",
        "journal.conclude": "turn an intent or a parked row into a decision",
        "journal.finish": "record that nothing is owed any more",
        "journal.adopt": "make the unfinished records of dead owners this process' own",
        "owner.register": "become an owner",
        "owner.renew": "prolong the lease",
        "owner.take_over": "bump the term of expired owners",
        "pg.begin": "open the business transaction",
        "pg.commit_record": "commit the business rows with the decision record and the outbox rows",
        "pg.prepare": "PREPARE TRANSACTION",
        "pg.commit_prepared": "COMMIT PREPARED",
        "pg.rollback_prepared": "ROLLBACK PREPARED",
        "pg.terminate_backend": "terminate the backend of a branch before its abort is presumed",
        "pg.scan_prepared": "list the prepared transactions of ours",
        "pg.outcome": "ask how a branch that is no longer prepared ended",
        "kafka.find_coordinator": "find the broker that coordinates a transactional id",
        "kafka.init_producer_id": "initialise a transactional id",
        "kafka.produce": "produce the records of a transaction and await every acknowledgement",
        "kafka.end.commit": "end the Kafka transaction with commit",
        "kafka.end.abort": "end the Kafka transaction with abort",
        "kafka.describe": "ask for the state of a transactional id",
        "kafka.read_back": "read a fenced transaction's outcome from the partition",
        "outbox.claim": "claim shards for a relay",
        "outbox.select": "read rows that are ready",
        "outbox.publish": "publish a batch of rows",
        "outbox.delete": "delete rows that were acknowledged",
        "outbox.release": "make waiting rows ready",
        "inbox.insert": "record a message id beside its effect",
        "barrier.enter": "record a delivery of a step beside its effect",
        "barrier.settle": "settle the marker of an effect outside of the database",
        "saga.start": "record that a saga has begun",
        "saga.append": "record what happened to a step of a saga",
        "saga.suspend": "let a saga sleep until a time or a signal",
        "saga.awake": "take over sagas whose time has come",
        "saga.adopt": "take over the unfinished sagas of a dead owner",
        "saga.signal": "send a signal to a saga",
        "saga.run": "call the action of a step",
        "saga.undo": "call the compensation of a step",
        "saga.ask": "ask what became of a step",
        "tcc.try": "have a service reserve, which is its vote",
        "tcc.confirm": "have a service make a reservation final",
        "tcc.cancel": "have a service take a reservation back, or keep a late one out",
    }
)


class Injector(Protocol):
    """What runs an effect while any point is armed."""

    async def run(self, point: str, effect: Callable[[], Awaitable[Any]], labels: Mapping[str, str]) -> Any:
        """Run *effect* (or not, or late) as the armed faults of *point* say."""
        ...


_injector: Injector | None = None


def boundary(point: str, effect: Callable[[], Awaitable[Result]], **labels: str) -> Awaitable[Result]:
    """The awaitable of *effect*, through the faults armed for *point*, if there are any.

    *labels* (gid, branch, ...) are what armed faults select by.
    """
    if _injector is None:
        return effect()
    assert point in POINTS, f"{point} is not in the registry"
    return _injector.run(point, effect, labels)


def install(injector: Injector | None) -> None:
    """Arm this process with *injector*; None disarms it."""
    global _injector
    _injector = injector
