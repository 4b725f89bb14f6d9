"""Two minutes of soak on real servers: every kind of injury, every promise kept; and then the checker is lied to."""

import itertools
import json
import random
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer

from tests.soak import observations as look
from tests.soak.checker import check
from tests.soak.disturbances import SERVER_KINDS, WORKER_KINDS, plan
from tests.soak.evidence import COMMITTED
from tests.soak.report import recoveries, report, vacuous
from tests.soak.soak import Options, started
from tests.soak.worker import TOPIC, body_of

SEED = 20


def test_a_plan_is_repeated_by_its_seed_and_leaves_nothing_out():
    """Every kind once in each round."""
    steps, again = (
        list(itertools.islice(plan(WORKER_KINDS, dict.fromkeys(WORKER_KINDS, 3), random.Random(SEED), rest_s=1), 12))
        for _ in range(2)
    )
    assert steps == again
    assert {step.kind for step in steps[:6]} == {step.kind for step in steps[6:]} == set(WORKER_KINDS)
    assert all(step.target in range(3) for step in steps)


@pytest.mark.servers
@pytest.mark.timeout(600)
async def test_a_short_soak_keeps_every_promise_and_what_is_planted_is_found(servers_directory):
    """Tear, loss and duplicate are planted in what the soak left, on the servers themselves where that can be done."""
    options = Options(minutes=2.0, seed=SEED, rest_s=1.0)
    async with started(options, servers_directory / "soak", print) as soak:
        seen, facts = await soak.run()
        facts |= {"minutes": options.minutes, "seed": SEED, "workers": options.workers, "brokers": options.brokers}
        _keep(servers_directory.with_name("short-soak"), seen, facts)
        violations = check(seen)
        assert violations == [], report(seen, violations, facts)
        assert vacuous(seen) == []
        assert {injury.kind for injury in seen.injuries} == {*SERVER_KINDS, *WORKER_KINDS}
        assert all(everybody is not None for _, _, everybody in recoveries(seen))

        told = {one.gid for one in seen.told if one.answer == COMMITTED}
        by_transaction = next(s for s in seen.sightings if not s.relayed and s.gid in told)
        gid = by_transaction.gid
        rest = [sighting for sighting in seen.sightings if sighting.gid != gid]
        missing = [sighting for sighting in seen.sightings if sighting != by_transaction]
        assert ("torn", gid) in _kinds(replace(seen, sightings=missing))

        await _publish_again(soak.kafka.bootstrap, gid, by_transaction.message_id)
        doubled = replace(seen, sightings=await look.sightings(soak.kafka.bootstrap))
        assert _kinds(doubled) == [("duplicate", gid)]

        async with soak.connection() as connection:
            await connection.execute("DELETE FROM soak_rows WHERE gid = $1", gid)
            without = replace(seen, rows=await look.rows(connection))
        assert ("torn", gid) in _kinds(without)
        assert _kinds(replace(without, sightings=rest)) == [("undecided", gid), ("lost", gid)]


def _keep(directory, seen, facts) -> None:
    """What was observed outlives the servers: `python -m tests.soak --judge .dev/short-soak/observations.json`."""
    directory.mkdir(exist_ok=True)
    seen.save(directory / "observations.json")
    (directory / "facts.json").write_text(json.dumps(facts))


def _kinds(observations):
    return [(violation.kind, violation.gid) for violation in check(observations)]


async def _publish_again(bootstrap: str, gid: str, message_id: str) -> None:
    """Deliver one message once more, as a relay would that does not know that it has been delivered."""
    original = next(s for s in await look.sightings(bootstrap) if s.message_id == message_id)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(
            TOPIC,
            body_of(gid, original.key, original.sequence),
            key=original.key.encode(),
            headers=[("message-id", message_id.encode())],
        )
    finally:
        await producer.stop()
