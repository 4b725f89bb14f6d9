"""`coordinator pool`: the transactional ids, whose they are, and what the brokers say of each."""

import asyncio
import time

from coordinator import cli_output as out
from coordinator.errors import CoordinatorError
from coordinator.operating.ledger import Row, open_ledger
from coordinator.operating.parties import Party, parties
from participants import Kafka

_AT_ONCE = 16
_COLUMNS = ("cluster", "transactional_id", "owner", "owner_lives", "state", "epoch", "open_s", "rest_s", "named_by")


def pool(
    participant: out.ParticipantsOption = [],  # noqa: B006 - typer copies it.
    journal: out.JournalOption = "",
    output: out.OutputOption = out.Output.TABLE,
) -> None:
    """List the transactional ids: their owners, their states at the broker, and how long one is open or rests.

    An id in state Ongoing holds up the readers of its partitions. One whose owner is dead is settled by whoever runs,
    once no unfinished transaction names it. A rest is counted from when its last transaction began. Example:

        coordinator pool --participant events=kafka://localhost:9092
    """
    url, given = out.journal_url(journal), out.participants(participant)

    async def look() -> list[Row]:
        asked = parties(given)
        try:
            async with open_ledger(url) as ledger:
                rows = await ledger.ids()
            limit = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(_describe(row, asked.get(row["cluster"]), limit) for row in rows))
            return rows
        finally:
            for party in asked.values():
                await party.close()

    out.show(out.run(look), _COLUMNS, output, nothing="no transactional id has been made yet")
    out.warn_of_no_participants(given)


async def _describe(row: Row, party: Party | None, limit: asyncio.Semaphore) -> None:
    """Add what the coordinating broker says of the id."""
    row |= {"state": "not asked", "epoch": None, "open_s": None, "rest_s": None}
    if not isinstance(party, Kafka):
        return
    async with limit:
        try:
            state = await party.describe(row["transactional_id"])
        except (CoordinatorError, OSError, TimeoutError) as failure:
            row["state"] = f"no answer: {failure}"
            return
    row["state"] = state.state or "unknown to the broker"
    row["epoch"] = state.producer.epoch
    if state.started_ms > 0:
        since = "rest_s" if state.state in ("CompleteCommit", "CompleteAbort") else "open_s"
        row[since] = max(0.0, time.time() - state.started_ms / 1000)
