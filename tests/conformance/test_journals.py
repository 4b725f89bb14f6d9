"""One suite for every journal: the one in memory and the one in PostgreSQL. Expectations are written by hand."""

import asyncio
import json
import os
from dataclasses import replace

import asyncpg
import pytest

from coordinator.alerts import AlertKind
from coordinator.errors import KeyReused, Refused, Replaced
from coordinator.gids import new_gid
from coordinator.journal.memory import (
    MemoryAlerts,
    MemoryJournal,
    MemoryOwners,
    MemoryTransactionalIds,
    MemoryWorld,
)
from coordinator.journal.owners import PostgresAlerts, PostgresOwners, PostgresTransactionalIds
from coordinator.journal.postgres import PostgresJournal
from coordinator.ports import Alert, Message, Record, Standing
from coordinator.protocol.model import Branch, BranchName, Ending, OnNo, Outcome, Recipe, Role, Vote
from participants.memory.database import MemoryConnection, MemoryStore

DB, EVENTS = BranchName("db"), BranchName("events")


class Process:
    """One process' journal, owner and ids."""

    def __init__(self, journal, owners, ids, alerts, connect):
        self.journal, self.owners, self.ids, self.alerts, self.connect = journal, owners, ids, alerts, connect

    async def register(self):
        self.lease = await self.owners.register()
        return self


class MemoryPlace:
    """Processes that share one memory."""

    def __init__(self):
        self.now_s = 0.0
        self.world = MemoryWorld(now_s=lambda: self.now_s)

    async def process(self, name, lease_s=10.0):
        journal = MemoryJournal(self.world)
        owners = MemoryOwners(journal, owner_id=name, lease_s=lease_s)
        ids = MemoryTransactionalIds(journal, prefix="ids")
        return await Process(journal, owners, ids, MemoryAlerts(self.world), self.connect).register()

    async def expire(self, process):
        self.world.owners[process.lease.owner].lease_until_s = self.now_s - 1.0

    async def connect(self):
        connection = MemoryConnection(MemoryStore())

        async def commit():
            connection.commit()

        return connection, commit

    async def outbox(self):
        return [(row.message.id, row.waiting) for row in self.world.outbox]

    async def attempts(self):
        return self.world.attempts

    async def audit(self):
        return self.world.audit

    async def endings(self, made):
        return self.world.rows[made.gid].endings

    async def age(self, seconds):
        self.now_s += seconds

    async def close(self):
        pass


class PostgresPlace:
    """Processes that share one database."""

    def __init__(self, url):
        self.url, self.journals, self.connections = url, [], []

    async def process(self, name, lease_s=10.0):
        journal = PostgresJournal(self.url)
        await journal.open()
        self.journals.append(journal)
        owners = PostgresOwners(journal, owner_id=name, lease_s=lease_s)
        ids = PostgresTransactionalIds(journal, prefix="ids")
        return await Process(journal, owners, ids, PostgresAlerts(journal), self.connect).register()

    async def expire(self, process):
        await self._execute(
            "UPDATE unanimity.owners SET lease_until = now() - interval '1 s' WHERE owner = $1", process.lease.owner
        )

    async def connect(self):
        connection = await asyncpg.connect(self.url)
        self.connections.append(connection)
        await connection.execute("BEGIN")
        return connection, lambda: connection.execute("COMMIT")

    async def outbox(self):
        rows = await self._fetch("SELECT message_id, waiting FROM unanimity.outbox ORDER BY id")
        return [tuple(row) for row in rows]

    async def audit(self):
        rows = await self._fetch("SELECT actor, action, gid, reason, detail FROM unanimity.audit ORDER BY id")
        return [tuple(row) for row in rows]

    async def attempts(self):
        rows = await self._fetch("SELECT gid, branch, action, tried, answer FROM unanimity.attempts")
        return {(gid, branch, action): (tried, answer) for gid, branch, action, tried, answer in rows}

    async def endings(self, made):
        rows = await self._fetch("SELECT gid, endings FROM unanimity.decisions")
        return json.loads({row["gid"]: row["endings"] for row in rows}[made.gid] or "{}")

    async def age(self, seconds):
        await self._execute(
            "UPDATE unanimity.decisions SET hold_until = hold_until - make_interval(secs => $1)", seconds
        )

    async def close(self):
        for connection in self.connections:
            connection.terminate()
        for journal in self.journals:
            await journal.close()

    async def _execute(self, statement, *arguments):
        connection = await asyncpg.connect(self.url)
        await connection.execute(statement, *arguments)
        await connection.close()

    async def _fetch(self, statement):
        connection = await asyncpg.connect(self.url)
        rows = await connection.fetch(statement)
        await connection.close()
        return rows


@pytest.fixture(params=["memory", "postgres"])
async def place(request, create_database):
    """A place where journals live."""
    built = MemoryPlace() if request.param == "memory" else PostgresPlace(await create_database())
    yield built
    await built.close()


@pytest.fixture
async def a(place):
    """The process that most tests begin with."""
    return await place.process("a")


def record(standing=Standing.COMMIT, *, key=None, hold_s=None) -> Record:
    """A record of a transaction with a database and a broker."""
    from datetime import UTC, datetime

    gid = new_gid("test", datetime.now(tz=UTC), os.urandom(16))
    return Record(
        gid=gid,
        name="transfer",
        recipe=Recipe.LAST_RESOURCE,
        standing=standing,
        branches={
            DB: Branch(name=DB, role=Role.PREPARED),
            EVENTS: Branch(name=EVENTS, role=Role.LAST, on_no=OnNo.DEFER, backed=True),
        },
        votes={DB: Vote.YES, EVENTS: Vote.YES},
        evidence={EVENTS: {"transactional_id": "ids-1", "epoch": 3, "offset": 0}},
        key=key,
        outbox=DB,
        hold_s=hold_s,
    )


def with_standing(made: Record, standing: Standing) -> Record:
    return replace(made, standing=standing)


MESSAGES = [
    Message(id="m1", participant=EVENTS, topic="t", value=b"\x00\xff", key=b"k", headers=(("h", b"\x00\xff"),)),
    Message(id="m2", participant=BranchName("other"), topic="t", value=None),
]


async def test_the_first_insert_wins_and_the_loser_adopts_it(place, a):
    """A decision never changes, whoever writes what afterwards."""
    b = await place.process("b")
    made = record()
    assert await a.journal.decide(made) is Standing.COMMIT
    assert await b.journal.decide(with_standing(made, Standing.ABORT)) is Standing.COMMIT
    assert await a.journal.decide(made) is Standing.COMMIT


async def test_two_decisions_of_one_transaction_at_once_are_told_the_same(place, a):
    """Even when they share a flush: one row stands, and both adopt it."""
    for first, second in ((Standing.COMMIT, Standing.ABORT), (Standing.ABORT, Standing.COMMIT)):
        made = record()
        told = await asyncio.gather(
            a.journal.decide(with_standing(made, first)), a.journal.decide(with_standing(made, second))
        )
        found = await a.journal.look_up(made.gid)
        assert found is not None
        assert set(told) == {found.standing}


async def test_what_was_decided_can_be_looked_up_whole(a):
    """Everything that finishes the transaction from anywhere is on record."""
    made = record()
    await a.journal.decide(made)
    found = await a.journal.look_up(made.gid)
    assert found is not None
    assert (found.gid, found.name, found.recipe, found.standing) == (made.gid, "transfer", made.recipe, Standing.COMMIT)
    assert (found.branches, found.votes, found.outbox) == (made.branches, made.votes, DB)
    assert found.evidence == {EVENTS: {"transactional_id": "ids-1", "epoch": 3, "offset": 0}}
    assert await a.journal.look_up(record().gid) is None


async def test_an_abort_is_written_by_anyone_and_stands(place, a):
    """Presuming an abort needs no term; the owner that comes later adopts it."""
    b = await place.process("b")
    await b.owners.resign(b.lease)
    made = record()
    assert await b.journal.decide(with_standing(made, Standing.ABORT)) is Standing.ABORT
    assert await a.journal.decide(made) is Standing.ABORT


@pytest.mark.parametrize("standing", [Standing.COMMIT, Standing.INTENT, Standing.PARKED])
async def test_a_replaced_owner_decides_nothing(place, a, standing):
    """Once the term has moved, only what stands already is told."""
    b = await place.process("b")
    known = record()
    await a.journal.decide(known)
    await place.expire(a)
    assert await b.owners.take_over(b.lease) == [a.lease.owner]
    made = record(standing)
    with pytest.raises(Replaced):
        await a.journal.decide(made)
    assert await a.journal.look_up(made.gid) is None
    assert await a.journal.decide(known) is Standing.COMMIT
    with pytest.raises(Replaced):
        await a.owners.renew(a.lease)


async def test_the_commit_record_stands_when_its_transaction_commits(place, a):
    """Decision and outbox rows come with the business rows, or not at all."""
    made = record()
    connection, commit = await a.connect()
    await a.journal.decide_within(connection, made, MESSAGES, ready=frozenset({BranchName("other")}))
    assert await place.outbox() == []
    assert await a.journal.look_up(made.gid) is None
    await commit()
    assert await place.outbox() == [("m1", True), ("m2", False)]
    found = await a.journal.look_up(made.gid)
    assert found is not None
    assert found.standing is Standing.COMMIT


async def test_a_commit_record_is_refused_where_an_abort_stands(place, a):
    """The late commit of a transaction that was presumed aborted fails."""
    made = record()
    await a.journal.decide(with_standing(made, Standing.ABORT))
    connection, _ = await a.connect()
    with pytest.raises(Refused):
        await a.journal.decide_within(connection, made, MESSAGES, ready=frozenset())


async def test_an_intent_is_concluded_once(a):
    """Only the last resource's first answer counts."""
    made = record(Standing.INTENT)
    assert await a.journal.decide(made) is Standing.INTENT
    assert await a.journal.conclude(made.gid, Standing.COMMIT) is Standing.COMMIT
    assert await a.journal.conclude(made.gid, Standing.ABORT) is Standing.COMMIT


async def test_finishing_an_intent_makes_it_what_the_last_resource_did(place, a):
    """A finished transaction is nobody's to adopt; a decision keeps its standing."""
    b = await place.process("b")
    intent, decided, owed = record(Standing.INTENT), record(), record()
    for made in (intent, decided, owed):
        await a.journal.decide(made)
    await a.journal.finish(intent.gid, Outcome.ABORT, {EVENTS: Ending.ABORTED})
    await a.journal.finish(decided.gid, Outcome.COMMIT, {DB: Ending.COMMITTED, EVENTS: Ending.COMMITTED})
    found = await a.journal.look_up(intent.gid)
    assert found is not None
    assert found.standing is Standing.ABORT
    await place.expire(a)
    await b.owners.take_over(b.lease)
    assert [adopted.record.gid for adopted in await b.journal.adopt()] == [owed.gid]


async def test_what_is_unfinished_is_counted_by_what_stands(place, a):
    """Whoever's it is; what owes nothing any more is not counted."""
    b = await place.process("b")
    assert await a.journal.unfinished() == {}
    done = record(Standing.COMMIT)
    for process, made in ((a, done), (a, record(Standing.INTENT)), (b, record(Standing.INTENT))):
        await process.journal.decide(made)
    await a.journal.finish(done.gid, Outcome.COMMIT, {})
    found = await b.journal.unfinished()
    assert {standing: records for standing, (records, _) in found.items()} == {Standing.INTENT: 2}
    assert found[Standing.INTENT][1] >= 0.0


async def test_every_unfinished_record_of_the_dead_is_adopted_by_exactly_one(place, a):
    """Two processes take over at once, and share what there is."""
    made = [record() for _ in range(20)]
    for each in made:
        await a.journal.decide(each)
    b, c = await place.process("b"), await place.process("c")
    assert await b.journal.adopt() == []
    await place.expire(a)
    await asyncio.gather(b.owners.take_over(b.lease), c.owners.take_over(c.lease))
    taken = await asyncio.gather(b.journal.adopt(), c.journal.adopt())
    gids = [adopted.record.gid for process in taken for adopted in process]
    assert sorted(gids) == sorted(each.gid for each in made)
    assert await b.journal.adopt() == []


async def test_a_stale_owners_late_commit_is_adopted_later(place, a):
    """The commit record locks no owner: what lands after the takeover is found by its old term."""
    b = await place.process("b")
    made = record()
    connection, commit = await a.connect()
    await a.journal.decide_within(connection, made, MESSAGES, ready=frozenset())
    await place.expire(a)
    await b.owners.take_over(b.lease)
    assert await b.journal.adopt() == []
    await commit()
    assert [adopted.record.gid for adopted in await b.journal.adopt()] == [made.gid]


async def successor(place, number):
    """The next process, and what it adopts of those that are gone."""
    process = await place.process(f"successor-{number}")
    await process.owners.take_over(process.lease)
    return process, await process.journal.adopt()


async def successor_of_dead(place, victim, number):
    """The next process after *victim* was killed, and what it adopts."""
    await place.expire(victim)
    return await successor(place, number)


async def test_a_record_that_outlived_too_many_owners_is_set_aside(place, a):
    """The sixth adopter is told to raise the alert; while it is open nobody adopts the record, then anybody does."""
    made, owner = record(), a
    await a.journal.decide(made)
    for number in range(1, 7):
        owner, (adopted,) = await successor_of_dead(place, owner, number)
        assert (adopted.record.adoptions, adopted.set_aside) == (number, number > 5)
    owner, (adopted,) = await successor_of_dead(place, owner, 7)
    assert adopted.set_aside, "the sixth died before it could tell anybody"
    await owner.alerts.raise_alert(made.gid, AlertKind.POISON, "adopted too often")
    owner, none = await successor_of_dead(place, owner, 8)
    assert list(none) == []
    assert await owner.alerts.resolve_alert(made.gid, AlertKind.POISON, by="ann", reason="a bug, now fixed")
    (adopted,) = await owner.journal.adopt()
    assert (adopted.record.standing, adopted.set_aside) == (Standing.COMMIT, False)


async def test_handing_over_is_not_held_against_a_record(place, a):
    """A process that resigns did not die of what it left."""
    made, owner = record(), a
    await a.journal.decide(made)
    for number in range(8):
        await owner.owners.resign(owner.lease)
        owner, (adopted,) = await successor(place, number)
        assert (adopted.record.adoptions, adopted.set_aside) == (0, False)


async def test_each_process_that_goes_on_with_a_record_reigns_anew(place, a):
    """Whether the last one died or handed over: participants turn away the lower term."""
    made, presumed = record(), replace(record(), standing=Standing.ABORT, reigns=2)
    for each in (made, presumed):
        await a.journal.decide(each)
    assert [(await a.journal.look_up(each.gid)).reigns for each in (made, presumed)] == [1, 2]
    b, adopted = await successor_of_dead(place, a, 1)
    assert {one.record.gid: one.record.reigns for one in adopted} == {made.gid: 2, presumed.gid: 3}
    await b.owners.resign(b.lease)
    c, adopted = await successor(place, 2)
    assert {one.record.gid: one.record.reigns for one in adopted} == {made.gid: 3, presumed.gid: 4}
    assert (await c.journal.look_up(made.gid)).reigns == 3


async def test_a_parked_record_is_given_back_once_when_it_was_held_for_too_long(place, a):
    """Nobody holds locks for ever: it is rolled back, by whoever looks first, even while its owner lives."""
    b = await place.process("b")
    held, patient = record(Standing.PARKED, hold_s=5), record(Standing.PARKED, hold_s=5000)
    await a.journal.decide(held)
    await a.journal.decide(patient)
    assert await b.journal.adopt() == []
    await place.age(60)
    adopted = await b.journal.adopt()
    assert [(each.record.gid, each.record.standing) for each in adopted] == [(held.gid, Standing.ABORT)]
    assert await a.journal.adopt() == []
    assert await a.journal.conclude(patient.gid, Standing.COMMIT, reason="the operator said so") is Standing.COMMIT


async def test_one_key_commits_once(place, a):
    """An aborted attempt frees the key; another commit with it is refused, and leaves nothing."""
    first, second, third = record(key="k"), record(key="k"), record(key="k")
    await a.journal.decide(with_standing(first, Standing.ABORT))
    assert await a.journal.look_up_key("transfer", "k") is None
    assert await a.journal.decide(second) is Standing.COMMIT
    with pytest.raises(KeyReused):
        await a.journal.decide(third)
    connection, _ = await a.connect()
    with pytest.raises(Refused):
        await a.journal.decide_within(connection, third, [], ready=frozenset())
    found = await a.journal.look_up_key("transfer", "k")
    assert found is not None
    assert found.gid == second.gid


async def test_ids_belong_to_their_owner_until_they_are_released(place, a):
    """A pool's ids are on record before anything is sent on them, and found when their owner died."""
    b = await place.process("b")
    mine = await a.ids.claim("events", 3)
    assert len(set(mine) | set(await b.ids.claim("events", 2))) == 5
    assert await b.ids.of(a.lease.owner) == [("events", name) for name in sorted(mine)]
    for name in mine:
        await b.ids.release("events", name)
    assert await b.ids.of(a.lease.owner) == []


async def test_an_owner_is_buried_only_when_nothing_of_it_is_left(place, a):
    """What a dead owner still has keeps it listed, to whoever asks after its taker has died, too."""
    b = await place.process("b")
    (name,) = await a.ids.claim("events", 1)
    await place.expire(a)
    assert await b.owners.take_over(b.lease) == [a.lease.owner]
    await b.owners.buried(a.lease.owner)
    assert await b.owners.take_over(b.lease) == [a.lease.owner]
    await place.expire(b)
    c = await place.process("c")
    assert sorted(await c.owners.take_over(c.lease)) == sorted([a.lease.owner, b.lease.owner])
    await c.ids.release("events", name)
    await c.owners.buried(a.lease.owner)
    assert await c.owners.take_over(c.lease) == [b.lease.owner]


async def test_resigning_lets_others_take_over_at_once(place, a):
    """A clean shutdown hands over without waiting for the lease."""
    b = await place.process("b")
    await a.owners.resign(a.lease)
    assert await b.owners.take_over(b.lease) == [a.lease.owner]


async def test_what_was_tried_and_answered_is_kept_with_its_transaction(place, a):
    """Tries add up, the last answer stands, and both are forgotten with the transaction."""
    made = record()
    await a.journal.decide(made)
    await a.journal.note_attempt(made.gid, "events", "commit", tried=1, answer="Disconnected: no answer")
    await a.journal.note_attempt(made.gid, "events", "commit", tried=1, answer="InDoubt: NOT_COORDINATOR")
    assert await place.attempts() == {(made.gid, "events", "commit"): (2, "InDoubt: NOT_COORDINATOR")}
    await a.journal.finish(made.gid, Outcome.COMMIT, {})
    assert await a.journal.purge(older_than_s=-1) == 1
    assert await place.attempts() == {}


async def test_an_alert_is_raised_once_and_resolved_once_with_a_name_and_a_reason(place, a):
    """Who has seen to it and why is in the audit; raising it again opens nothing."""
    made = record()
    await a.alerts.raise_alert(made.gid, AlertKind.HEURISTIC, "events aborted")
    await a.alerts.raise_alert(made.gid, AlertKind.HEURISTIC, "seen again")
    assert await a.alerts.open_alerts() == [Alert(gid=made.gid, kind="heuristic", detail="events aborted")]
    assert not await a.alerts.resolve_alert(made.gid, "parked", by="ann", reason="no such alert")
    for by, reason in (("", "a reason"), ("ann", "  ")):
        with pytest.raises(Refused):
            await a.alerts.resolve_alert(made.gid, "heuristic", by=by, reason=reason)
        with pytest.raises(Refused):
            await a.alerts.audit(actor=by, action="resolve", gid=made.gid, reason=reason)
    assert await a.alerts.resolve_alert(made.gid, "heuristic", by="ann", reason="refunded by hand")
    assert not await a.alerts.resolve_alert(made.gid, "heuristic", by="bob", reason="too late")
    await a.alerts.raise_alert(made.gid, AlertKind.HEURISTIC, "and again")
    assert await a.alerts.open_alerts() == []
    await a.alerts.audit(actor="ann", action="resolve", gid=made.gid, reason="ops-1", detail="commit")
    assert await place.audit() == [
        ("ann", "resolve alert", made.gid, "refunded by hand", "heuristic"),
        ("ann", "resolve", made.gid, "ops-1", "commit"),
    ]


async def test_commits_of_another_history_are_found_and_how_they_ended_is_corrected(place, a):
    """By the evidence of the branch that was prepared there; not an abort, and not a branch that only read."""
    from dataclasses import replace

    def prepared(timeline, **changes):
        evidence = {DB: {"xid": "7", "system": "s", "timeline": timeline}}
        return replace(record(), evidence=evidence, **changes)

    here, done, owed = prepared(2), prepared(1), prepared(1)
    aborted = prepared(1, standing=Standing.ABORT)
    reading = prepared(1, votes={DB: Vote.READ_ONLY})
    for made in (here, done, owed, aborted, reading):
        await a.journal.decide(made)
    for made in (here, done):
        await a.journal.finish(made.gid, Outcome.COMMIT, {DB: Ending.COMMITTED})
    history = {"system": "s", "timeline": 2}
    assert await a.journal.commits_elsewhere(DB, history, within_s=60) == {done.gid: True, owed.gid: False}
    assert await a.journal.commits_elsewhere(DB, history, within_s=-1) == {owed.gid: False}
    assert await a.journal.commits_elsewhere(EVENTS, history, within_s=60) == {}
    for made in (done, owed):
        await a.journal.note_ending(made.gid, DB, Ending.LOST)
    assert await place.endings(done) == {DB: Ending.LOST}
    assert await place.endings(owed) == {}
