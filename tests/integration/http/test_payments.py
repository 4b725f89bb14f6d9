"""The reference service: two reservations of it in one transaction, what it lists, and what it turns away."""

import json
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest

from coordinator import Coordinator, Refused, Settings
from coordinator.errors import TurnedAway
from coordinator.gids import new_gid
from examples.social_post.observer import until
from participants.http import Delivery
from participants.http.reservations import reservations
from participants.tcc import Tcc
from tests.integration.http.test_sagas import Payments, service

SETTINGS = Settings(lease_s=2.0, recovery_s=0.1, presume_abort_after_s=0.2, presume_abort_looks_apart_s=0.1)


@pytest.fixture
async def stage(database):
    """The reference service, running; its books, with two accounts."""
    payments = Payments(database)
    await payments.start()
    books = await asyncpg.connect(database)
    await books.execute("INSERT INTO accounts VALUES ('ada', 1000), ('bob', 20)")
    yield payments, books
    await books.close()
    await payments.kill()


@asynccontextmanager
async def booking(port):
    """A coordinator of which seat and meal are two participants, at one service."""
    async with service(port) as client:
        branches = {name: Tcc(**reservations(client, "/reservation")) for name in ("seat", "meal")}
        journal = f"memory://{os.urandom(4).hex()}"
        async with Coordinator(journal=journal, participants=branches, settings=SETTINGS) as coordinator:
            yield coordinator


async def book(coordinator, *accounts):
    async with coordinator.transaction("book") as transaction:
        for branch, account in zip(("seat", "meal"), accounts, strict=False):
            (await transaction.enlist(branch)).reserve({"account": account, "amount": 30})


async def standing(books):
    """What is left, what is charged, and what is held."""
    return (
        [row["balance"] for row in await books.fetch("SELECT balance FROM accounts ORDER BY name")],
        await books.fetchval("SELECT count(*) FROM charges"),
        await books.fetchval("SELECT count(*) FROM holds"),
    )


async def test_both_are_charged_also_where_they_are_the_same(stage):
    payments, books = stage
    async with booking(payments.port) as coordinator:
        await book(coordinator, "ada", "ada")
    assert await standing(books) == ([940, 20], 2, 0)


async def test_where_one_is_refused_the_other_is_given_back(stage):
    payments, books = stage
    async with booking(payments.port) as coordinator:
        with pytest.raises(Refused, match="not that much"):
            await book(coordinator, "ada", "bob")

        async def given_back():
            return await standing(books) == ([1000, 20], 0, 0)

        assert await until(given_back, 20.0) is not None


async def test_what_is_left_of_both_is_found_by_each_of_its_own(stage):
    """Whoever had tried both has died: a look at one lists what is that one's, and both are cancelled in the end."""
    payments, books = stage
    async with service(payments.port) as client, booking(payments.port) as coordinator:
        tried = reservations(client, "/reservation")
        prefix = coordinator.engine.participants["seat"].participant.prefix
        both, meal_alone = (new_gid(prefix, datetime.now(tz=UTC), os.urandom(16)) for _ in range(2))
        for gid, branch in ((both, "seat"), (both, "meal"), (meal_alone, "meal")):
            await tried["attempt"](gid, {"account": "ada", "amount": 30}, branch=branch)
        assert {gid for gid, _ in await tried["pending"](branch="seat", prefix=prefix)} <= {both}

        async def given_back():
            return await standing(books) == ([1000, 20], 0, 0)

        assert await until(given_back, 20.0) is not None


async def test_of_many_the_oldest_that_are_asked_for_are_listed(stage):
    """What others hold, and what is newer, does not stand in the way of what was left over."""
    payments, books = stage
    await books.execute(
        "INSERT INTO holds SELECT gen_random_uuid(), begins || n, step, 'ada', 1, now() - n * interval '1 second' "
        "FROM generate_series(1, 12000) AS n, "
        "(VALUES ('unan:', 'seat'), ('unan:', 'meal'), ('other:', 'seat')) AS each (begins, step)"
    )
    async with service(payments.port) as client:
        listed = await reservations(client, "/reservation")["pending"](branch="seat", prefix="unan:")
        everything = await client.send(
            "/reservation/pending", b"", Delivery(gid="none", step="seat", direction="status")
        )
    assert [gid for gid, _ in listed] == [f"unan:{n}" for n in range(12_000, 2_000, -1)]
    assert len(json.loads(everything)["pending"]) == 10_000, "a coordinator that says nothing is answered as well"


@pytest.mark.parametrize("path", ["/charge", "/reservation/try"])
@pytest.mark.parametrize("told", [{"amount": 10**24}, {"amount": 2**63 - 1}, {"amount": 0}, {"account": "a\0"}])
async def test_what_no_table_takes_is_turned_away(stage, path, told):
    payments, _ = stage
    delivery = Delivery(gid="unan-1", step="seat", direction=path.rpartition("/")[2].replace("charge", "action"))
    async with service(payments.port) as client:
        with pytest.raises(TurnedAway, match="422"):
            await client.send(path, json.dumps({"account": "ada", "amount": 1, **told}).encode(), delivery)


async def test_what_its_barrier_takes_no_record_of_is_turned_away(stage):
    """A 409 would say that the step was never done, by no earlier attempt."""
    payments, books = stage
    delivery = Delivery(gid="unan-1", step="x" * 3000, direction="action")
    async with service(payments.port) as client:
        with pytest.raises(TurnedAway, match="400"):
            await client.send("/charge", json.dumps({"account": "ada", "amount": 1}).encode(), delivery)
    assert await standing(books) == ([1000, 20], 0, 0)
