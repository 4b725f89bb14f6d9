"""With the roles and rules of `docs/operating.md` everything works; and without any one rule something does not."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from coordinator import Coordinator, schema
from coordinator.dev.kafka import USERS
from coordinator.doctor import examine_kafka
from coordinator.errors import InDoubt, Misconfigured, Refused
from coordinator.protocol.model import Ending, Prepared, Recipe
from examples.social_post.observer import Observer, until
from examples.social_post.promises import SETTINGS
from examples.social_post.service import TOPIC, create_post
from participants import Postgres
from participants.kafka.cluster import Cluster
from participants.kafka.connection import Security
from participants.kafka.outcome import read_back
from participants.kafka.participant import Kafka
from tests.docs.privileges import rules
from tests.docs.service import security, service
from tests.integration.kafka.access import allow, take_away
from tests.integration.kafka.probe import branch_of, message, voted

WITHIN_S = 40
KILLED_AT = {
    "commit-record": "kafka.end.commit:before",
    "two-phase": "pg.commit_prepared:before",
    "last-resource": "pg.commit_prepared:before",
}


async def killed(database: str, brokers: str, author: str, recipe: str) -> None:
    """A process of the same user writes a post, and is killed when it is decided and not finished."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.docs.service", database, brokers, author, recipe),
        env={**os.environ, "COORDINATOR_FAULTS": f"{KILLED_AT[recipe]}=crash"},
    )
    assert await asyncio.wait_for(child.wait(), WITHIN_S) == -signal.SIGKILL


async def test_everything_works(guarded, guarded_kafka):
    """The recipes, the relay, and what another process left: prepared, decided, in an open Kafka transaction."""
    database, brokers = guarded.url("app_service"), guarded_kafka.sasl_bootstrap
    recipes = [*KILLED_AT, "outbox"]
    async with Observer(guarded.url(), guarded_kafka.bootstrap) as seen, service(database, brokers) as coordinator:
        for recipe in recipes:
            await create_post(coordinator, author=recipe, body="hello", recipe=recipe)
        for recipe in KILLED_AT:
            await killed(database, brokers, f"killed {recipe}", recipe)

        async def whole() -> bool:
            authors = [*recipes, *(f"killed {recipe}" for recipe in KILLED_AT)]
            counts = [(await seen.rows(author), seen.messages[author]) for author in authors]
            return counts == [(1, 1)] * len(authors) and not any((await seen.leftovers()).values())

        assert await until(whole, WITHIN_S) is not None, (seen.messages, await seen.leftovers())


@pytest.mark.parametrize("recipe", ["two-phase", "last-resource"])
async def test_a_second_database_takes_part_with_the_tables_that_it_needs(guarded, guarded_kafka, recipe):
    """The journal is in the first one; the message travels with both, and by either's outbox."""
    database, billing, author = guarded.url("app_service"), guarded.url("app_service", "billing"), f"two {recipe}"
    participants = {
        "db": Postgres(database),
        "billing": Postgres(billing),
        "events": Kafka(guarded_kafka.sasl_bootstrap, security=security()),
    }
    async with (
        Observer(guarded.url(), guarded_kafka.bootstrap) as seen,
        Observer(guarded.url(database="billing"), guarded_kafka.bootstrap) as other,
        Coordinator(journal=database, participants=participants, settings=SETTINGS) as coordinator,
    ):
        async with coordinator.transaction("both", recipe=recipe) as transaction:
            for name in ("db", "billing"):
                connection = await transaction.enlist(name)
                await connection.execute("INSERT INTO posts (author, body) VALUES ($1, '')", author)
            await transaction.publish("events", topic=TOPIC, key=author, value=b"")

        async def whole() -> bool:
            there = (await seen.rows(author), await other.rows(author), seen.messages[author], await seen.prepared())
            return there == (1, 1, 1, 0)

        assert await until(whole, WITHIN_S) is not None
    held = await asyncpg.connect(billing)
    assert [version.present for version in await schema.versions(held, "journal")] == [0]
    await held.close()


RULES = list(rules())


@pytest.fixture
async def rule_maker(guarded_kafka):
    """The super user's connection."""
    cluster = Cluster(guarded_kafka.bootstrap, Security())
    yield cluster
    cluster.close()


class Ids:
    """New ids below the prefix that the page allows."""

    made = 0

    async def claim(self, cluster, count):
        Ids.made += count
        return [f"unan-rule-{number}" for number in range(Ids.made - count, Ids.made)]


@dataclass(slots=True)
class Trial:
    """Does all that a participant and the doctor do, as the page's user."""

    brokers: str
    left: list[Prepared] = field(default_factory=list)
    """Branches that could not be ended, because the rule was gone in between."""

    async def allowed(self) -> bool:
        """Whether nothing of it is refused: publish, be prepared, commit, read back, look at the settings."""
        kafka = Kafka(self.brokers, security=security(), two_phase=True)
        kafka.ids = Ids()
        try:
            await kafka.open()
            self.left.append(await voted(kafka, message(TOPIC, b"allowed?"), recipe=Recipe.TWO_PHASE))
            while self.left:
                assert await kafka.commit(self.left[0]) is Ending.COMMITTED
                last = self.left.pop(0)
            assert await read_back(kafka.cluster, branch_of(last), within_s=WITHIN_S) is Ending.COMMITTED
        except (Misconfigured, Refused, InDoubt):
            return False
        finally:
            await kafka.close()
        found = {finding.what for finding in await examine_kafka(self.brokers, security().options())}
        return "settings of the brokers" not in found

    async def refused(self) -> bool:
        """Whether something of it is."""
        return not await self.allowed()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.operation}")
async def test_each_rule_is_needed(guarded_kafka, rule_maker, rule):
    """Without it something of ours is refused, and with it nothing."""
    trial = Trial(guarded_kafka.sasl_bootstrap)
    assert await trial.allowed()
    await take_away(rule_maker, rule)
    try:
        assert await until(trial.refused, WITHIN_S) is not None
    finally:
        await allow(rule_maker, rule)
    assert await until(trial.allowed, WITHIN_S) is not None


COMMANDS = {
    "app_reader": [
        "schema status",
        "transactions list --state all",
        "alerts list",
        "outbox status",
        "watch --looks 1",
    ],
    "app_service": ["in-doubt list", "pool", "doctor"],
}


@pytest.mark.parametrize(("role", "command"), [(role, c) for role, commands in COMMANDS.items() for c in commands])
async def test_operators_commands_work(guarded, guarded_kafka, role, command):
    """As the role that the page names for them."""
    participants = {
        "db": guarded.url(role),
        "events": {
            "url": f"kafka://{guarded_kafka.sasl_bootstrap}",
            "options": {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": "app",
                "sasl_plain_password": USERS["app"],
            },
        },
    }
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COORDINATOR_")},
        "COORDINATOR_JOURNAL": guarded.url(role),
        "COORDINATOR_PARTICIPANTS": json.dumps(participants),
        "COORDINATOR_OUTPUT": "json",
    }
    running = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("coordinator")), *command.split()),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(running.communicate(), WITHIN_S)
    assert running.returncode == (1 if command == "doctor" else 0), (output, errors)  # Its notes are of one broker.
