"""The command line as an operator uses it, and a coordinator whose broker is away."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from coordinator import Coordinator, Park, Parked, Settings
from coordinator.cli import app
from participants import Kafka, Postgres

NOWHERE = "127.0.0.1:1"
SETTINGS = Settings(lease_s=2.0, recovery_s=0.2, settle_within_s=1.0)
TABLE = "CREATE TABLE IF NOT EXISTS posts (author text NOT NULL)"


def strict(text):
    """JSON as every program reads it: without Python's own NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Operator:
    """Runs commands against one journal."""

    def __init__(self, database):
        self.environment = {"COORDINATOR_JOURNAL": database, "COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}

    async def run(self, *arguments, stdin=None, **environment):
        """The result of `coordinator ARGUMENTS`; in a thread, since commands have an event loop of their own."""
        runner = CliRunner(env=self.environment | environment)
        return await asyncio.to_thread(runner.invoke, app, [str(argument) for argument in arguments], input=stdin)

    async def json(self, *arguments):
        """What the command prints for programs."""
        done = await self.run(*arguments, "--output", "json")
        assert done.stdout, done.output
        return strict(done.stdout)


@pytest.fixture
def operator(database):
    """An operator of the test's database."""
    return Operator(database)


@pytest.fixture
async def parked(database):
    """A coordinator whose broker is away, and a transaction that waits for an operator because of it."""
    participants = {"db": Postgres(database), "events": Kafka(NOWHERE)}
    async with Coordinator(journal=database, participants=participants, settings=SETTINGS) as coordinator:
        with pytest.raises(Parked) as held:
            async with coordinator.transaction("create-post", policy=Park(within_s=0.2), recipe="last-resource") as t:
                connection = await t.enlist("db")
                await connection.execute(TABLE)
                await connection.execute("INSERT INTO posts VALUES ('ann')")
                await t.publish("events", topic="posts", key="ann", value="hello")
        yield held.value.gid
