"""Which rows of the backlog are sent together, and to whom."""

import asyncio
from collections.abc import Iterator, Sequence

from coordinator.errors import Refused
from coordinator.ports import Blame, Parcel
from coordinator.ports import OutboxRow as Row


def runs(rows: Sequence[Row], suspects: set[int]) -> Iterator[tuple[str, Sequence[Row]]]:
    """Rows that can be sent together, by participant, in order. What may be refused travels alone."""
    together: dict[str, list[Row]] = {}
    for row in rows:
        name = row["participant"]
        if row["attempts"] or row["id"] in suspects:
            if name in together:
                yield name, together.pop(name)
            yield name, [row]
        else:
            together.setdefault(name, []).append(row)
    yield from together.items()


class Nobody:
    """The publisher of rows whose participant is not registered with this relay."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def send(self, rows: Sequence[Row]) -> Sequence[Parcel]:
        """Nothing is taken."""
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(Refused(f"no participant {self._name!r} is registered with this relay"))
        return [Parcel(rows, refused)]

    def blame(self, _parcel: Parcel) -> Blame:
        """They are all refused."""
        return Blame.EACH_ROW

    async def close(self) -> None:
        """There is nothing to close."""
