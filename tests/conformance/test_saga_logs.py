"""One suite for every log of sagas: the one in memory and the one in PostgreSQL. Expectations are written by hand."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from coordinator import limits
from coordinator.alerts import AlertKind
from coordinator.errors import Refused, Replaced
from coordinator.journal.memory_sagas import MemorySagas
from coordinator.journal.sagas import PostgresSagas
from coordinator.sagas.log import Freed, NewSaga, Rest
from tests.conformance.test_journals import MemoryPlace, PostgresPlace

KNOWN = ("checkout@1",)
STUCK, SKIPPED = '{"t":"stuck","s":"a","r":"down"}', '{"t":"skipped","s":"a","r":"ops-1","n":1}'
DONE, UNDONE = '{"t":"done","s":"a","o":1}', '{"t":"undone","s":"a"}'
_made = iter(range(1, 100_000))


class MemorySagaPlace(MemoryPlace):
    """Processes that share one memory."""

    async def log_of(self, process):
        return MemorySagas(process.journal)

    async def passes(self, seconds):
        self.now_s += seconds

    async def close(self):
        pass


class PostgresSagaPlace(PostgresPlace):
    """Processes that share one database."""

    def __init__(self, url):
        super().__init__(url)
        self.logs = []

    async def log_of(self, process):
        self.logs.append(PostgresSagas(process.journal, self.url))
        return self.logs[-1]

    async def passes(self, seconds):
        await self._execute(
            "UPDATE unanimity.sagas SET created_at = created_at - make_interval(secs => $1),"
            " wake_at = wake_at - make_interval(secs => $1), deadline_at = deadline_at - make_interval(secs => $1)",
            seconds,
        )

    async def close(self):
        for log in self.logs:
            await log.close()
        await super().close()


class Process:
    """One process' owner and log."""

    def __init__(self, place, process, log):
        self.place, self.process, self.log = place, process, log

    async def begun(self, *, key=None, definition="checkout@1", deadline_s=None):
        """A new saga: what stands, and what was asked for."""
        new = new_saga(key=key, definition=definition, deadline_s=deadline_s)
        return await self.log.start(new), new

    async def takes_over(self, other):
        await self.place.expire(other.process)
        await self.process.owners.take_over(self.process.lease)

    async def awake(self, definitions=KNOWN, at_most=100):
        return [loaded.number for loaded in await self.log.awake(definitions, at_most)]

    async def adopt(self, definitions=KNOWN, at_most=100):
        return [loaded.number for loaded in await self.log.adopt(definitions, at_most)]

    async def end(self, number):
        await self.log.append(number, 0, DONE, final=True)

    async def parked(self):
        """One that waits for an operator, with an alert."""
        standing, new = await self.begun()
        await self.log.append(standing.number, 0, STUCK)
        await self.alert(new)
        return standing, new

    async def alert(self, new):
        await self.process.alerts.raise_alert(new.gid, AlertKind.PARKED_SAGA, "a: down", under=self.process.lease)

    async def alerts(self):
        return {(alert.gid, alert.kind) for alert in await self.process.alerts.open_alerts()}


def new_saga(*, key=None, definition="checkout@1", fingerprint="f1", deadline_s=None):
    return NewSaga(
        gid=f"test:{next(_made):06}", name="checkout", definition=definition, key=key, fingerprint=fingerprint,
        input='{"n": 1}', deadline_s=deadline_s,
    )  # fmt: skip


@pytest.fixture(params=["memory", "postgres"])
async def place(request, create_database):
    """A place where logs live."""
    built = MemorySagaPlace() if request.param == "memory" else PostgresSagaPlace(await create_database())
    yield built
    await built.close()


@pytest.fixture
def process(place):
    """A factory of processes."""

    async def made(name):
        registered = await place.process(name)
        return Process(place, registered, await place.log_of(registered))

    return made


@pytest.fixture
async def a(process):
    """The process that most tests begin with."""
    return await process("a")


@pytest.fixture
async def b(process):
    """Another one."""
    return await process("b")


async def test_a_key_begins_one_saga_whoever_asks_and_how_often(a, b):
    first, second = new_saga(key="order-1"), new_saga(key="order-1", fingerprint="f2")
    stood = await asyncio.gather(a.log.start(first), b.log.start(second))
    assert {standing.gid for standing in stood} in ({first.gid}, {second.gid})
    assert sorted(standing.ours for standing in stood) == [False, True]
    assert len({(standing.number, standing.fingerprint) for standing in stood}) == 1
    again = await a.log.start(new_saga(key="order-1", fingerprint="f3"))
    assert (again, again.ours) == (stood[0 if not stood[0].ours else 1], False)


async def test_without_a_key_each_begins_and_a_repeated_question_finds_its_own(a):
    new = new_saga()
    first, other = await asyncio.gather(a.log.start(new), a.log.start(new_saga()))
    assert (first.ours, other.ours) == (True, True)
    assert first.number != other.number
    assert await a.log.start(new) == first


async def test_what_is_loaded_is_what_was_written_in_its_order(a, b):
    standing, new = await a.begun(key="order-2", deadline_s=60.0)
    for position, event in enumerate((DONE, UNDONE)):
        await a.log.append(standing.number, position, event, final=position == 1)
    loaded = await b.log.load(new.gid)
    assert (loaded.number, loaded.gid, loaded.key, loaded.input) == (standing.number, new.gid, "order-2", '{"n": 1}')
    assert (list(loaded.events), loaded.ended, loaded.signalled) == ([DONE, UNDONE], True, 0)
    assert loaded.owner == a.process.lease.owner
    assert 50.0 < loaded.left_s <= 60.0
    assert (await b.log.find("checkout", "order-2")).gid == new.gid
    assert await b.log.load("test:none") is None
    assert await b.log.find("checkout", "none") is None


async def test_deadlines_are_kept_of_those_that_share_a_write_and_of_one_that_begins_alone(a):
    alone, *shared = [new_saga(deadline_s=deadline_s) for deadline_s in (60.0, 70.0, None, 80.0)]
    await a.log.start(alone)
    await asyncio.gather(*(a.log.start(new) for new in shared))
    left = [(await a.log.load(new.gid)).left_s for new in (alone, *shared)]
    assert left[2] is None
    assert [round(seconds, -1) for seconds in left if seconds is not None] == [60.0, 70.0, 80.0]


async def test_a_repeated_append_finds_itself_and_another_one_at_its_place_is_refused(a):
    standing, new = await a.begun()
    await a.log.append(standing.number, 0, DONE)
    await a.log.append(standing.number, 0, DONE)
    with pytest.raises(Replaced):
        await a.log.append(standing.number, 0, UNDONE)
    assert list((await a.log.load(new.gid)).events) == [DONE]


async def test_what_lets_a_parked_saga_go_on_closes_its_alert_and_no_other_one(a):
    """Its last event may be that. A repeated write finds itself, and closes none that was raised since."""
    (standing, new), (_, other), said = await a.parked(), await a.parked(), Freed("ann", "ops-1")
    await a.process.alerts.raise_alert(new.gid, AlertKind.UNREADABLE_SAGA, "another type")
    left = {(other.gid, AlertKind.PARKED_SAGA), (new.gid, AlertKind.UNREADABLE_SAGA)}
    await a.log.append(standing.number, 1, SKIPPED, final=True, freed=said)
    assert await a.alerts() == left
    loaded = await a.log.load(new.gid)
    assert (list(loaded.events), loaded.ended) == ([STUCK, SKIPPED], True)
    await a.alert(new)
    await a.log.append(standing.number, 1, SKIPPED, final=True, freed=said)
    with pytest.raises(Replaced):
        await a.log.append(standing.number, 1, UNDONE, freed=said)
    assert await a.alerts() == {*left, (new.gid, AlertKind.PARKED_SAGA)}


async def test_who_was_replaced_lets_no_parked_saga_go_on_and_closes_no_alert(a, b):
    standing, new = await a.parked()
    await b.takes_over(a)
    with pytest.raises(Replaced):
        await a.log.append(standing.number, 1, SKIPPED, final=True, freed=Freed("ann", "ops-1"))
    assert await b.alerts() == {(new.gid, AlertKind.PARKED_SAGA)}
    assert list((await b.log.load(new.gid)).events) == [STUCK]


async def test_a_refused_append_costs_those_nothing_that_share_its_write(a):
    (one, _), (other, new) = await a.begun(), await a.begun()
    await a.log.append(one.number, 0, DONE)
    fresh = new_saga()
    told = await asyncio.gather(
        a.log.append(one.number, 0, UNDONE), a.log.append(other.number, 0, DONE), a.log.start(fresh),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(told[0], Replaced)
    assert told[1] is None
    assert told[2].gid == fresh.gid
    assert list((await a.log.load(new.gid)).events) == [DONE]


async def test_whatever_json_can_hold_is_kept_and_read_again(a):
    """Also what the database could not take for text: a NUL, half a surrogate pair."""
    odd = [r'"a\u0000b"', r'"\ud800"', r'"\u00fc"', r'"\\u0000"', '"ü"']
    begun = [new_saga() for _ in odd]
    begun = [replace(new, input=text) for new, text in zip(begun, odd, strict=True)]
    stand = await asyncio.gather(*(a.log.start(new) for new in begun))
    events = [f'{{"t":"done","s":"pay","o":{text}}}' for text in odd]
    await asyncio.gather(*(a.log.append(each.number, 0, event) for each, event in zip(stand, events, strict=True)))
    for new, event in zip(begun, events, strict=True):
        loaded = await a.log.load(new.gid)
        assert (loaded.input, list(loaded.events)) == (new.input, [event])
    await a.log.append(stand[0].number, 0, events[0])  # Repeated: it finds itself.


async def test_what_cannot_be_stored_costs_those_nothing_that_share_its_write(a):
    """What a type was told to write that is no JSON; it is refused, and only to whoever wrote it."""
    (one, _), (other, new) = await a.begun(), await a.begun()
    fresh, wrong = new_saga(), replace(new_saga(), input='{"n":NaN}')
    told = await asyncio.gather(
        a.log.append(one.number, 0, '{"t":"done","s":"pay","o":Infinity}'), a.log.start(wrong),
        a.log.append(other.number, 0, DONE), a.log.start(fresh), return_exceptions=True,
    )  # fmt: skip
    assert [type(each) for each in told[:2]] == [Refused, Refused]
    assert (told[2], told[3].gid) == (None, fresh.gid)
    assert list((await a.log.load(new.gid)).events) == [DONE]
    assert await a.log.load(wrong.gid) is None


async def test_it_sleeps_until_its_time(a, b, place):
    standing, _ = await a.begun()
    await a.log.suspend(Rest(standing.number, 1, 0, 30.0))
    assert await b.awake() == []
    await place.passes(31.0)
    assert await b.awake() == [standing.number]
    assert await a.awake() == []


async def test_what_is_read_comes_with_the_time_that_it_is_at_the_log(a, b):
    """So that whoever takes up what was woken knows it to be due, whatever its own clock says."""
    _, new = await a.begun()
    before_s = await b.log.now_s()
    found = await a.log.load(new.gid)
    assert before_s <= found.at_s <= await b.log.now_s()


async def test_it_is_not_let_go_of_by_a_reign_that_is_over(a, b):
    """The request was late: somebody has taken it up since, and drives it."""
    standing, new = await a.begun()
    await a.log.suspend(Rest(standing.number, 1, 0, 0.0))
    assert await a.awake() == [standing.number]
    await a.log.suspend(Rest(standing.number, 1, 0, 0.0))
    assert await b.awake() == []
    await a.log.suspend(Rest(standing.number, (await a.log.load(new.gid)).reigns, 0, 0.0))
    assert await b.awake() == [standing.number]


async def test_a_signal_wakes_it_whether_it_comes_before_or_after_it_sleeps(a, b):
    (early, one), (late, two), (seen, three) = await a.begun(), await a.begun(), await a.begun()
    assert await b.log.send(one.gid, "paid", "1")
    assert await b.log.send(three.gid, "paid", "3")
    for standing, read in ((early, 0), (late, 0), (seen, 1)):
        await a.log.suspend(Rest(standing.number, 1, read, None))
    assert await a.awake() == [early.number]
    assert await b.log.send(two.gid, "paid", "2")
    assert await a.awake() == [late.number]
    assert (await b.log.load(two.gid)).signalled == 1


async def test_a_signal_and_going_to_sleep_at_once_lose_nothing(a, b):
    begun = [await a.begun() for _ in range(20)]
    await asyncio.gather(
        *(a.log.suspend(Rest(standing.number, 1, 0, None)) for standing, _ in begun),
        *(b.log.send(new.gid, "paid", "1") for _, new in begun),
    )
    assert sorted(await b.awake()) == [standing.number for standing, _ in begun]


async def test_signals_are_kept_in_order_and_nobody_hears_them_once_it_has_ended(a, b):
    standing, new = await a.begun()
    for name, payload in (("paid", "1"), ("shipped", '"by train"'), ("paid", "2")):
        assert await b.log.send(new.gid, name, payload)
    found = await a.log.signals(standing.number)
    assert [(s.name, s.payload) for s in found] == [("paid", "1"), ("shipped", '"by train"'), ("paid", "2")]
    assert len({s.id for s in found}) == 3
    await a.end(standing.number)
    assert not await b.log.send(new.gid, "paid", "3")
    assert not await b.log.send("test:none", "paid", "3")


async def test_a_saga_is_sent_a_thousand_signals_and_then_what_operators_say(a, b):
    """Somebody who goes on and on must not make it slower and slower; who may stop it is heard all the same."""
    standing, new = await a.begun()
    assert all([await b.log.send(new.gid, "noise", "1") for _ in range(limits.SAGA_SIGNALS_MAX)])
    assert not await b.log.send(new.gid, "noise", "1")
    assert await b.log.send(new.gid, "!cancel", "{}")
    assert len(await a.log.signals(standing.number)) == limits.SAGA_SIGNALS_MAX + 1


async def test_a_saga_that_was_sent_a_thousand_signals_keeps_the_first_reply_to_each_command(a, b):
    """What others send it takes no reply away from it; and whoever replies on and on is counted out as well."""
    standing, new = await a.begun()
    assert all([await b.log.send(new.gid, "noise", "1") for _ in range(limits.SAGA_SIGNALS_MAX - 2)])
    for name in ("charge", "charge", "ship"):
        assert await b.log.send(new.gid, f"reply:{name}", "1")
    for name in ("reply:charge", "reply:ship", "charge"):
        assert not await b.log.send(new.gid, name, "2")
    assert await b.log.send(new.gid, "reply:bill", "1")
    kept = [signal.name for signal in await a.log.signals(standing.number)]
    assert kept[-4:] == ["reply:charge", "reply:charge", "reply:ship", "reply:bill"]
    assert len(kept) == limits.SAGA_SIGNALS_MAX + 2


async def test_what_was_sent_and_is_not_read_yet_is_found_for_many_at_once(a, b):
    told, read, quiet = [(await a.begun())[0] for _ in range(3)]
    for saga, times in ((told, 2), (read, 1)):
        for _ in range(times):
            assert await b.log.send(saga.gid, "paid", "1")
    heard = {told.number: 1, read.number: 1, quiet.number: 0}
    assert list(await a.log.unheard(heard)) == [told.number]
    assert list(await a.log.unheard({told.number: 2})) == list(await a.log.unheard({})) == []


async def test_each_is_woken_by_exactly_one_process(a, b, process):
    begun = [(await a.begun())[0].number for _ in range(30)]
    for number in begun:
        await a.log.suspend(Rest(number, 1, 0, 0.0))
    c = await process("c")
    taken = await asyncio.gather(*(p.awake(at_most=4) for p in (a, b, c) * 4))
    assert sorted(number for some in taken for number in some) == begun


async def test_only_those_are_taken_whose_definition_is_known(a, b):
    (known, _), (other, _) = await a.begun(), await a.begun(definition="checkout@2")
    for standing in (known, other):
        await a.log.suspend(Rest(standing.number, 1, 0, 0.0))
    assert await b.awake() == [known.number]
    assert await b.awake(["checkout@2"]) == [other.number]
    await a.takes_over(b)
    assert await a.adopt() == [known.number]
    assert await a.adopt(["checkout@2"]) == [other.number]


async def test_unfinished_ones_of_the_dead_are_adopted_once_by_anyone(a, b, process):
    (left, _), (ended, _), (mine, _) = await a.begun(), await a.begun(), await b.begun()
    await a.log.append(left.number, 0, DONE)
    await a.end(ended.number)
    c = await process("c")
    assert await c.adopt() == []  # Its owner lives.
    await b.takes_over(a)
    taken = await asyncio.gather(c.adopt(), b.adopt())
    assert sorted(number for some in taken for number in some) == [left.number]
    assert mine.number not in taken[0]


async def test_each_who_goes_on_with_it_reigns_anew(a, b):
    """What participants are told: never less than somebody before, and more than whoever was replaced."""
    (standing, new), seen = await a.begun(), []

    async def reigns():
        seen.append((await a.log.load(new.gid)).reigns)

    await reigns()
    await a.log.suspend(Rest(standing.number, 1, 0, 0.0))
    (woken,) = await b.log.awake(KNOWN, 1)
    await a.takes_over(b)
    (adopted,) = await a.log.adopt(KNOWN, 1)
    await reigns()
    assert [seen[0], woken.reigns, adopted.reigns, seen[1]] == [1, 2, 3, 3]


async def test_those_that_nobody_here_drives_are_found_after_a_while(a, b, place):
    (busy, _), (lost, _), (ended, _), (other, _) = (
        await a.begun(), await a.begun(), await a.begun(), await a.begun(definition="checkout@2")
    )  # fmt: skip
    await a.end(ended.number)
    await b.begun()
    assert await a.log.strays(KNOWN, [busy.number], 10) == []
    await place.passes(limits.OWN_RECORD_IDLE_S + 1)
    [taken_up] = await a.log.strays(KNOWN, [busy.number], 10)
    assert (taken_up.number, taken_up.reigns) == (lost.number, 2)
    assert other.number in [loaded.number for loaded in await a.log.strays(["checkout@2"], [], 10)]


async def test_what_is_released_is_anyone_s_at_once_but_only_by_its_owner(a, b):
    (ours, _), (theirs, _) = await a.begun(), await b.begun()
    await a.log.release([ours.number, theirs.number])
    assert await b.awake() == [ours.number]


async def test_a_successor_misses_nothing_of_what_was_tidied(a, b, process):
    """Also not what the dead one had adopted, or woken, whose numbers are below its own."""
    asleep = (await a.begun())[0].number
    left = (await a.begun())[0].number
    await a.log.suspend(Rest(asleep, 1, 0, 0.0))
    own = [(await b.begun())[0].number for _ in range(4)]
    for number in own[:2]:
        await b.end(number)
    await b.log.tidy()
    await b.takes_over(a)
    assert await b.adopt() == [left]
    assert await b.awake() == [asleep]
    c, d = await process("c"), await process("d")
    await c.takes_over(b)
    assert sorted(await c.adopt()) == [asleep, left, *own[2:]]
    await c.log.tidy()
    await c.end(left)
    await c.log.tidy()
    await d.takes_over(c)
    assert sorted(await d.adopt()) == [asleep, *own[2:]]


async def test_where_all_have_ended_what_is_begun_and_adopted_later_is_not_missed(a, b, process):
    old = (await a.begun())[0].number
    ended = (await b.begun())[0].number
    await b.end(ended)
    await b.log.tidy()
    later = (await b.begun())[0].number
    await b.log.tidy()
    await b.takes_over(a)
    assert await b.adopt() == [old]
    await b.log.tidy()
    c = await process("c")
    await c.takes_over(b)
    assert sorted(await c.adopt()) == [old, later]


async def test_an_owner_with_unfinished_sagas_is_not_forgotten(a, b):
    standing, _ = await a.begun(definition="checkout@2")
    await b.takes_over(a)
    assert await b.adopt() == []
    await b.process.owners.buried(a.process.lease.owner)
    assert await b.adopt(["checkout@2"]) == [standing.number]


async def test_once_its_term_is_lost_a_process_writes_nothing(a, b):
    standing, new = await a.begun()
    free, _ = await b.begun()
    await b.log.suspend(Rest(free.number, 1, 0, 0.0))
    await b.takes_over(a)
    with pytest.raises(Replaced):
        await a.log.append(standing.number, 0, DONE)
    with pytest.raises(Replaced):
        await a.log.start(new_saga())
    for attempt in (
        lambda: a.log.suspend(Rest(standing.number, 1, 0, 0.0)),
        lambda: a.log.release([standing.number]),
        lambda: a.log.awake(KNOWN, 10),
        lambda: a.log.adopt(KNOWN, 10),
    ):
        with contextlib.suppress(Replaced):
            assert not await attempt()
    assert await b.adopt() == [standing.number]
    assert list((await b.log.load(new.gid)).events) == []
    assert await b.awake() == [free.number]


async def test_it_is_told_whether_what_was_ready_may_have_been_begun(a, b):
    """By a sleeper and by whoever stops; of the dead nobody knows."""
    begun = [(await a.begun())[0].number for _ in range(5)]
    await a.log.suspend(Rest(begun[0], 1, 0, 0.0))
    await a.log.suspend(Rest(begun[1], 1, 0, 0.0, doubtful=True))
    await a.log.release(begun[2:4], [begun[3]])
    told = {loaded.number: loaded.doubtful for loaded in await b.log.awake(KNOWN, 10)}
    assert told == {begun[0]: False, begun[1]: True, begun[2]: False, begun[3]: True}
    await b.takes_over(a)
    assert [loaded.doubtful for loaded in await b.log.adopt(KNOWN, 10)] == [True]
    await b.log.release(begun)
    assert not any(loaded.doubtful for loaded in await b.log.awake(KNOWN, 10))


async def test_adoptions_are_counted_until_something_is_written(a, process):
    """And those who are lost often are adopted by themselves, until nobody is to call them any more."""
    (standing, new), before = await a.begun(), a
    for count in range(1, limits.ADOPTIONS_MAX + 2):
        following = await process(f"after-{count}")
        await following.takes_over(before)
        suspects = limits.SAGA_SUSPECT < count <= limits.ADOPTIONS_MAX
        assert await following.log.adopt(KNOWN, 10, suspects=not suspects) == []
        found = await following.log.adopt(KNOWN, 10, suspects=suspects)
        assert [loaded.adoptions for loaded in found] == [count]
        before = following
    await before.log.append(standing.number, 0, DONE)
    assert (await before.log.load(new.gid)).adoptions == 0
    last = await process("last")
    await last.takes_over(before)
    assert [loaded.adoptions for loaded in await last.log.adopt(KNOWN, 10)] == [1]


async def test_an_owner_that_resigned_did_not_die_of_its_sagas(a, b):
    await a.begun()
    await a.process.owners.resign(a.process.lease)
    await b.process.owners.take_over(b.process.lease)
    assert [(loaded.adoptions, loaded.doubtful) for loaded in await b.log.adopt(KNOWN, 10)] == [(0, True)]
