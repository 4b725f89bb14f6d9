"""What every participant promises, in memory and on the real thing. Each test is a sentence of `ports.Participant`."""

import pytest

from coordinator.errors import CoordinatorError
from coordinator.faults.injectors import ArmedFaults, Fault
from coordinator.faults.points import Cell
from coordinator.protocol.model import BranchName, Ending, Prepared, Recipe, Vote
from tests.conformance import participants
from tests.conformance.participants import fresh_gid

BRANCH = BranchName("branch")
KINDS = (
    "memory-database",
    "memory-broker",
    "postgres",
    "kafka-two-phase",
    "kafka-last-resource",
    "tcc-memory",
    "tcc-postgres",
    "tcc-http",
)


@pytest.fixture(params=KINDS)
def kind(request):
    """A kind of participant on a resource of its own."""
    match request.param:
        case "memory-database":
            return participants.memory_database()
        case "memory-broker":
            return participants.memory_broker()
        case "tcc-memory":
            return participants.tcc_in_memory()
        case "tcc-http":
            return participants.tcc_over_http()
        case "tcc-postgres":
            return participants.tcc_in_postgres(request.getfixturevalue("database"))
        case "postgres":
            return participants.postgres(request.getfixturevalue("database"))
        case _:
            cluster, topic = request.getfixturevalue("kafka"), request.getfixturevalue("topic")
            recipe = Recipe(request.param.removeprefix("kafka-"))
            return participants.kafka(cluster.bootstrap, topic, recipe)


@pytest.fixture
async def bench(kind):
    """It, closed afterwards."""
    yield kind
    await kind.close()


async def prepared_branch(bench, participant):
    """A branch that has written and voted YES, as the plain data that anybody can finish it with."""
    gid = fresh_gid()
    session = await participant.begin(gid, recipe=bench.recipe)
    await bench.write(session)
    vote, evidence = await session.vote(10.0)
    assert vote is Vote.YES
    return Prepared(gid=gid, branch=BRANCH, evidence=evidence), session


async def test_a_voted_branch_is_committed_by_any_process(bench):
    """What was written is visible after another process' commit, and not before."""
    prepared, _ = await prepared_branch(bench, await bench.open())
    assert await bench.visible(False) == 0
    assert await (await bench.open()).commit(prepared) is Ending.COMMITTED
    assert await bench.seen() == 1


async def test_a_commit_may_be_repeated(bench):
    """By the same process and by another one; it happens once."""
    first, second = await bench.open(), await bench.open()
    prepared, _ = await prepared_branch(bench, first)
    assert [await p.commit(prepared) for p in (first, first, second)] == [Ending.COMMITTED] * 3
    assert await bench.seen() == 1


async def test_an_abort_may_be_repeated(bench):
    """By the same process and by another one; nothing is ever visible."""
    first, second = await bench.open(), await bench.open()
    prepared, _ = await prepared_branch(bench, first)
    assert [await p.abort(prepared) for p in (first, first, second)] == [Ending.ABORTED] * 3
    assert await bench.seen() == 0


async def test_an_abort_of_nothing_is_aborted(bench):
    """Also of a branch that nobody ever began."""
    participant = await bench.open()
    assert await participant.abort(Prepared(gid=fresh_gid(), branch=BRANCH)) is Ending.ABORTED


async def test_a_commit_after_an_abort_answers_aborted(bench):
    """The truth, not what was asked for."""
    first, second = await bench.open(), await bench.open()
    prepared, _ = await prepared_branch(bench, first)
    await first.abort(prepared)
    assert [await p.commit(prepared) for p in (first, second)] == [Ending.ABORTED] * 2
    assert await bench.seen() == 0


async def test_an_abort_after_a_commit_answers_committed(bench):
    """The truth, not what was asked for."""
    first, second = await bench.open(), await bench.open()
    prepared, _ = await prepared_branch(bench, first)
    await first.commit(prepared)
    assert [await p.abort(prepared) for p in (first, second)] == [Ending.COMMITTED] * 2
    assert await bench.seen() == 1


async def test_a_discarded_branch_leaves_nothing(bench):
    """Discarding is legal twice, and the participant goes on as before."""
    participant = await bench.open()
    session = await participant.begin(fresh_gid(), recipe=bench.recipe)
    await bench.write(session)
    await session.discard()
    await session.discard()
    prepared, _ = await prepared_branch(bench, participant)
    await participant.commit(prepared)
    assert await bench.seen() == 1


async def test_discarding_a_branch_that_has_promised_changes_nothing(bench):
    """By then its commit may have been decided."""
    participant = await bench.open()
    prepared, session = await prepared_branch(bench, participant)
    await session.discard()
    assert await participant.commit(prepared) is Ending.COMMITTED
    assert await bench.seen() == 1


async def test_a_branch_that_did_nothing_is_read_only(bench):
    """There is nothing to finish, and nothing is left."""
    participant = await bench.open()
    session = await participant.begin(fresh_gid(), recipe=bench.recipe)
    vote, evidence = await session.vote(10.0)
    assert (vote, dict(evidence)) == (Vote.READ_ONLY, {})
    assert await bench.doubtful(participant) == []


async def test_branches_in_doubt_are_listed_until_they_are_finished(bench):
    """By any process, with an age; and none is listed by those that find them otherwise."""
    first, second = await bench.open(), await bench.open()
    prepared, _ = await prepared_branch(bench, first)
    found = await second.in_doubt()
    expected = [(prepared.gid, BRANCH)] if bench.lists_in_doubt else []
    assert [(doubtful.prepared.gid, doubtful.prepared.branch) for doubtful in found] == expected
    assert all(0 <= doubtful.age_s < 60 for doubtful in found)
    await second.commit(prepared)
    assert await bench.doubtful(first) == []


@pytest.mark.parametrize("cell", [Cell.REPLY_LOST, Cell.LATE])
async def test_a_vote_without_an_answer_is_a_no_once_it_was_discarded(bench, cell):
    """Whether it had been carried out already, or would have been afterwards: nothing is left of it."""
    participant = await bench.open()
    gid = fresh_gid()
    session = await participant.begin(gid, recipe=bench.recipe)
    with ArmedFaults(faults=[Fault(point=bench.vote_point, cell=cell)]) as armed:
        await bench.write(session)
        with pytest.raises((CoordinatorError, OSError, TimeoutError)):
            await session.vote(1.0)  # However often a participant asks again by itself: it gets no answer.
        await session.discard()
        await armed.arrive()
        assert not armed.unfired()
    assert await bench.doubtful(participant) == []
    assert await participant.abort(Prepared(gid=gid, branch=BRANCH)) is Ending.ABORTED
    assert await bench.seen() == 0


async def test_a_commit_whose_reply_was_lost_is_reported_truthfully(bench):
    """The first asker cannot know; whoever asks again is told that it was committed."""
    first, second = await bench.open(), await bench.open()
    prepared, _ = await prepared_branch(bench, first)
    with ArmedFaults(faults=[Fault(point=bench.commit_point, cell=Cell.REPLY_LOST, times=1)]) as armed:
        try:
            answer = await first.commit(prepared)
        except (CoordinatorError, OSError, TimeoutError):
            answer = None  # It does not know; a participant that asks again by itself does.
        assert not armed.unfired()
    assert answer in (None, Ending.COMMITTED)
    assert [await p.commit(prepared) for p in (first, second)] == [Ending.COMMITTED] * 2
    assert await bench.seen() == 1
