"""The checker finds what is planted, and nothing where nothing is."""

from dataclasses import replace

import pytest

from tests.soak.checker import check, duplicates_by_cause
from tests.soak.evidence import ABORTED, COMMITTED, OUTBOX, UNKNOWN, Injury, Observations, Row, Sighting, Told
from tests.soak.report import percentile, recoveries, report, vacuous

KEY = "w1.1.0.0"
FACTS = {"minutes": 1, "seed": 7, "workers": 1, "brokers": 3, "settled_s": 0.5, "deaths": 1}


def transaction(number: int, *, recipe: str = "commit-record", answer: str = COMMITTED, there: bool = True, messages=2):
    """One transaction as it should be observed: what was told, its row, and its messages."""
    gid = f"unan:{number}"
    told = Told(
        gid=gid, worker="w1", recipe=recipe, policy="rollback", began_s=number, answer=answer, ended_s=number + 0.1
    )
    row = Row(gid=gid, key=KEY, sequence=number, messages=messages)
    sightings = [
        Sighting(
            message_id=f"{gid}:{n}",
            gid=gid,
            key=KEY if n == 0 else f"{gid}:{n}",
            sequence=number,
            partition=n,
            offset=10 * number,
            at_s=number,
            relayed=recipe == OUTBOX,
            producer=1,
        )
        for n in range(messages)
    ]
    return told, [row] if there else [], sightings if there else []


def observed(*transactions, **more) -> Observations:
    """What is observed of *transactions*."""
    return Observations(
        told=[told for told, _, _ in transactions if told is not None],
        rows=[row for _, rows, _ in transactions for row in rows],
        sightings=[sighting for _, _, sightings in transactions for sighting in sightings],
        decided={rows[0].gid: "commit" for _, rows, _ in transactions if rows},
        **more,
    )


CLEAN = [
    transaction(1),
    transaction(2, recipe=OUTBOX),
    transaction(3, answer=ABORTED, there=False),
    transaction(4, recipe="two-phase", answer=UNKNOWN),
    transaction(5, recipe="last-resource", answer=UNKNOWN, there=False),
    transaction(6, recipe=OUTBOX),
]


def kinds(observations: Observations) -> list[tuple[str, str]]:
    """What the checker finds, without the witnesses."""
    return [(violation.kind, violation.gid) for violation in check(observations)]


def test_a_clean_history_passes():
    """Committed, rolled back, and unknown either way."""
    assert kinds(observed(*CLEAN)) == []


@pytest.mark.parametrize("lost", [0, 1])
def test_a_row_without_one_of_its_messages_is_torn(lost: int):
    """The message's number is the witness."""
    told, rows, sightings = transaction(7)
    found = check(observed(*CLEAN, (told, rows, [s for n, s in enumerate(sightings) if n != lost])))
    assert [(v.kind, v.gid) for v in found] == [("torn", "unan:7")]
    assert f"unan:7:{lost}" in found[0].witness


def test_messages_without_their_row_are_torn():
    """And the journal, which says commit, is contradicted."""
    told, _, sightings = transaction(7)
    torn = replace(observed(*CLEAN, (told, [], sightings)), decided={"unan:7": "commit"})
    assert ("torn", "unan:7") in kinds(torn)


def test_a_committed_transaction_of_which_nothing_is_there_is_lost():
    """The caller was told committed."""
    assert kinds(observed(*CLEAN, transaction(7, there=False))) == [("lost", "unan:7")]


def test_a_decision_of_which_nothing_is_there_is_found_even_where_nobody_was_told():
    """The caller's process died; the journal remembers."""
    observations = observed(*CLEAN, transaction(7, answer=UNKNOWN, there=False))
    observations.decided["unan:7"] = "commit"
    assert kinds(observations) == [("undecided", "unan:7")]


def test_what_is_visible_of_a_rolled_back_transaction_is_a_ghost():
    """Even when it is whole."""
    assert ("ghost", "unan:7") in kinds(observed(*CLEAN, transaction(7, answer=ABORTED)))


def test_rows_that_the_journal_knows_nothing_of_are_found():
    """A commit without a decision is no commit."""
    observations = observed(*CLEAN)
    del observations.decided["unan:1"]
    assert kinds(observations) == [("undecided", "unan:1")]


@pytest.mark.parametrize(
    ("stood", "stands", "wrong"),
    [
        (["intent"], "commit", False),
        (["intent", "commit"], "commit", False),
        (["intent", "commit", "intent"], "commit", False),
        (["commit"], "abort", True),
        (["intent", "abort", "commit"], "commit", True),
        (["commit"], None, True),
        (["intent"], None, False),
    ],
)
def test_a_decision_never_changes(stood, stands, wrong):
    """An intent becomes one; what was decided stays, and is not forgotten."""
    observations = observed(*CLEAN, transaction(7, there=stands == "commit", answer=UNKNOWN), stood={"unan:7": stood})
    observations.decided.pop("unan:7", None)
    if stands is not None:
        observations.decided["unan:7"] = stands
    assert kinds(observations) == ([("changed", "unan:7")] if wrong else [])


@pytest.mark.parametrize("relayed", [False, True])
def test_a_message_that_a_kafka_transaction_delivered_is_there_once(relayed: bool):
    """Neither a second transaction nor the relay may deliver it again, whatever was injured."""
    told, rows, sightings = transaction(7)
    again = replace(sightings[0], offset=99, relayed=relayed)
    injuries = [Injury(kind="worker killed", target="w1", began_s=6, ended_s=6)]
    found = kinds(observed(*CLEAN, (told, rows, [*sightings, again]), injuries=injuries))
    assert found == [("duplicate", "unan:7")]


def test_the_relay_may_repeat_itself_where_an_injury_explains_it():
    """And the injury is what the repetition is counted under."""
    told, rows, sightings = transaction(7, recipe=OUTBOX)
    again = replace(sightings[0], offset=99, at_s=8)
    explained = observed(
        *CLEAN,
        (told, rows, [*sightings, again]),
        injuries=[
            Injury(kind="broker killed", target="broker 1", began_s=1, ended_s=2),
            Injury(kind="worker killed", target="w1", began_s=7.5, ended_s=7.5),
            Injury(kind="postgres crashed", target="postgres", began_s=9, ended_s=9.5),
        ],
    )
    assert kinds(explained) == []
    assert duplicates_by_cause(explained) == {"worker killed": 1}
    assert kinds(replace(explained, injuries=[])) == [("duplicate", "unan:7")]


def test_a_row_that_is_there_twice_is_a_duplicate():
    """Business rows are never repeated."""
    told, rows, sightings = transaction(7)
    assert kinds(observed(*CLEAN, (told, [*rows, *rows], sightings))) == [("duplicate", "unan:7")]


def test_messages_of_one_key_that_change_places_are_found():
    """The outbox promises their order; a repetition of earlier ones is none of its business."""
    first, second = transaction(7, recipe=OUTBOX, messages=1), transaction(8, recipe=OUTBOX, messages=1)
    changed = (second[0], second[1], [replace(second[2][0], offset=65)])
    assert kinds(observed(*CLEAN, first, changed)) == [("order", "unan:7")]
    repeated = (first[0], first[1], [*first[2], replace(first[2][0], offset=99)])
    injuries = [Injury(kind="worker killed", target="w1", began_s=6, ended_s=6)]
    assert kinds(observed(*CLEAN, repeated, second, injuries=injuries)) == []


def test_leftovers_and_alerts_are_found():
    """Each with an example."""
    left = observed(
        *CLEAN, leftovers={"prepared transaction": ["unan:9:db"], "outbox row": []}, alerts=["unan:9 hazard"]
    )
    assert kinds(left) == [("leftover", "prepared transaction"), ("alert", "unan:9")]


def test_a_worker_that_never_commits_again_is_found():
    """Also when nothing else is wrong."""
    assert kinds(observed(*CLEAN, healed_s=6.5)) == [("stalled", "w1")]


def test_observations_survive_a_file(tmp_path):
    """They can be judged again."""
    observations = observed(*CLEAN, injuries=[Injury(kind="worker killed", target="w1", began_s=1, ended_s=2)])
    observations.save(tmp_path / "observations.json")
    assert Observations.load(tmp_path / "observations.json") == observations


def test_recovery_is_counted_from_the_injury_to_a_commit_begun_after_it():
    """What had begun before it proves nothing."""
    injuries = [Injury(kind="worker killed", target="w1", began_s=1.5, ended_s=2)]
    ((_, anybody, everybody),) = recoveries(observed(*CLEAN, injuries=injuries))
    assert (anybody, everybody) == (pytest.approx(0.6), pytest.approx(0.6))
    ((_, anybody, everybody),) = recoveries(
        observed(*CLEAN, injuries=[Injury(kind="worker killed", target="w1", began_s=7, ended_s=7)])
    )
    assert (anybody, everybody) == (None, None)


def test_percentiles_are_values_that_occurred():
    """Nearest rank."""
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert percentile([], 0.5) is None


def test_a_soak_that_did_nothing_says_so():
    """It proves nothing, and is no success."""
    assert "nothing was disturbed" in vacuous(observed(*CLEAN))
    assert "no transaction of last-resource and rollback committed" in vacuous(observed(*CLEAN))


def test_the_page_names_every_violation():
    """With its witness, and the seed that repeats the plan."""
    observations = observed(*CLEAN, transaction(7, there=False))
    page = report(observations, check(observations), FACTS)
    assert "seed 7" in page
    assert "1 VIOLATIONS" in page
    assert "unan:7  w1 commit-record rollback: told committed; decided None; rows 0; messages none" in page
    assert "every promise was kept" in report(observed(*CLEAN), [], FACTS)
