"""A broker, as a relay sees it: rows go in, in order, and parcels say what it has taken."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from coordinator.records import OutboxRow


@dataclass(frozen=True, slots=True)
class Parcel:
    """Rows that a broker takes or refuses as one."""

    rows: Sequence[OutboxRow]
    acknowledged: "asyncio.Future[Any]"
    """Done when the broker has all of them; fails with whatever it said."""


class Blame(StrEnum):
    """Whom a failed acknowledgement is about."""

    EACH_ROW = "each row"
    """The broker will take none of them."""
    SOME_ROW = "some row"
    """At least one of them; which one is found out by sending them one by one."""
    NO_ROW = "no row"
    """The broker is away, or something before them was refused: they are to be sent again."""


class Publisher(Protocol):
    """A broker, as a relay sees it."""

    async def send(self, rows: Sequence[OutboxRow]) -> Sequence[Parcel]:
        """Hand *rows* over, in order. Rows that are known to be refused are parcels that have failed already.

        A row behind a refused one of its key is in no parcel. After a failed acknowledgement nothing is taken until
        `close`, so that nothing overtakes what has to be sent again. Raises `Unavailable` while the broker is away.
        """
        ...

    def blame(self, parcel: Parcel) -> Blame:
        """Whom the failure of *parcel* is about."""
        ...

    async def close(self) -> None:
        """Let go of the broker: nothing is under way afterwards. Idempotent, and the next `send` begins anew."""
        ...
