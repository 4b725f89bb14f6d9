"""What a transaction may cost before its caller is answered: every statement and Kafka request, whatever the machine.

The statements are read from the server's own log, so nothing that reaches it goes uncounted.
"""

import re

import asyncpg
import pytest

from coordinator import Coordinator
from participants import Kafka, Postgres
from participants.kafka.connection import Connection

STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
DURABLE = ("COMMIT", "PREPARE TRANSACTION", "COMMIT PREPARED", "WITH proposed")

# One row and one message. What is written in the business transaction, what makes it durable, and what Kafka is asked.
BEGIN, ROW = "BEGIN", "INSERT INTO budget"
BUDGETS: dict[str, tuple[list[str], int, list[str]]] = {
    "commit-record": ([BEGIN, ROW, "WITH written", "COMMIT"], 1, ["Produce", "EndTxn"]),
    "outbox": ([BEGIN, ROW, "WITH written", "COMMIT"], 1, []),
    "two-phase": (
        [BEGIN, ROW, "WITH marked", "PREPARE TRANSACTION", "WITH proposed", "COMMIT PREPARED"],
        3,
        ["Produce", "EndTxn"],
    ),
    "last-resource": (
        [BEGIN, ROW, "WITH marked", "PREPARE TRANSACTION", "WITH proposed", "COMMIT PREPARED"],
        3,
        ["Produce", "EndTxn"],
    ),
}


@pytest.fixture
async def stage(logging_postgres, logged_database, kafka, create_topic, monkeypatch):
    """A coordinator on a server that logs every statement; what is off the critical path stands still."""
    topic, requests = await create_topic(), []
    ask = Connection.ask

    async def counting(self, request, decode):
        requests.append(type(request).__name__)
        return await ask(self, request, decode)

    monkeypatch.setattr(Connection, "ask", counting)
    participants = {"db": Postgres(logged_database), "events": Kafka(kafka.bootstrap)}
    async with Coordinator(journal=logged_database, participants=participants) as coordinator:
        connection = await asyncpg.connect(logged_database)
        await connection.execute("CREATE TABLE budget (body text)")
        await connection.close()
        for loop in coordinator.engine._loops:
            await loop.stop()
        await coordinator.engine.finisher.relays.stop()
        await coordinator.engine.finisher.stop()
        yield coordinator, logging_postgres, topic, requests


async def transact(coordinator, recipe, topic) -> None:
    """One row and one message."""
    async with coordinator.transaction("budget", recipe=recipe) as transaction:
        connection = await transaction.enlist("db")
        await connection.execute("INSERT INTO budget (body) VALUES ('x')")
        await transaction.publish("events", topic=topic, value=b"x")


@pytest.mark.parametrize("recipe", BUDGETS)
async def test_a_transaction_costs_its_budget_and_nothing_more(stage, recipe):
    """The statements in their order, the durable writes among them, and two round trips to Kafka."""
    coordinator, server, topic, requests = stage
    for _ in range(3):
        await transact(coordinator, recipe, topic)
    before, asked = len(statements(server)), len(requests)
    await transact(coordinator, recipe, topic)
    made = statements(server)[before:]
    expected, durable, kafka = BUDGETS[recipe]
    assert [beginning(statement) for statement in made] == expected
    assert sum(statement.startswith(DURABLE) for statement in made) == durable
    assert [name for name in requests[asked:] if name != "InitProducerId"] == kafka


def statements(server) -> list[str]:
    """Every statement that the server has been given, but for what makes an idle session as new."""
    given = STATEMENT.findall(server.log.read_text(errors="replace"))
    return [statement for statement in given if not statement.startswith("SELECT pg_advisory_unlock_all")]


def beginning(statement: str) -> str:
    """The words by which the budget knows a statement."""
    known = {word for expected, _, _ in BUDGETS.values() for word in expected}
    return max((word for word in known if statement.startswith(word)), key=len, default=statement)
