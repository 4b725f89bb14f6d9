"""Participants on real brokers, and probes beside them."""

import asyncio

import pytest

from participants import Kafka
from tests.integration.kafka.probe import Probe


class Ids:
    """A registry in memory; ids are unique among all tests of a session."""

    made = 0

    async def claim(self, cluster, count):
        Ids.made += count
        return [f"unanimity-{n}" for n in range(Ids.made - count, Ids.made)]


@pytest.fixture
async def opened():
    """A factory of opened participants; closed afterwards."""
    made = []

    async def create(bootstrap: str, **options) -> Kafka:
        kafka = Kafka(bootstrap, **options)
        kafka.ids = Ids()
        made.append(kafka)
        await kafka.open()
        return kafka

    yield create
    await asyncio.gather(*(kafka.close() for kafka in made))


@pytest.fixture
async def participant(kafka, opened):
    """A participant on the session's broker."""
    return await opened(kafka.bootstrap)


@pytest.fixture
async def probe(kafka):
    """Raw questions to the session's broker."""
    made = Probe(kafka.bootstrap)
    yield made
    made.cluster.close()


@pytest.fixture
async def probing():
    """A factory of probes; closed afterwards."""
    made = []

    def create(bootstrap: str) -> Probe:
        made.append(Probe(bootstrap))
        return made[-1]

    yield create
    for each in made:
        each.cluster.close()
