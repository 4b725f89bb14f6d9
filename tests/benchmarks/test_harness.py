"""The benchmark's arithmetic, what it promises to write, and that it notices what would make its figures worthless."""

import dataclasses
import json
from xml.etree import ElementTree

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from tests.benchmarks.__main__ import measure, parts_of, steps
from tests.benchmarks.growth import CURVES, drawings
from tests.benchmarks.growth import markdown as growth_markdown
from tests.benchmarks.measure import Book, Ratio, percentile, summarised, there_and_back
from tests.benchmarks.plots import chart
from tests.benchmarks.ratios import CONCURRENCY, MORE, RATIOS
from tests.benchmarks.readback import Seen, Wrong, check, number_of, value_of
from tests.benchmarks.report import ROOT, between_markers, markdown, report
from tests.benchmarks.saga_worker import DBOS, expect
from tests.benchmarks.sagas import SIDES, told_as
from tests.benchmarks.spent import shares
from tests.benchmarks.stage import Progress, Settings, Stage

NAMES = [
    *(f"{side}_c{c}" for side in ("kafka_only", "commit_record", "two_phase", "last_resource") for c in (1, 8, 32)),
    "commit_record_p99_c1",
    "outbox_commit_c32",
    "relay_vs_producer",
    "relay_vs_txoutbox",
    "relay2_vs_txoutbox2",
    "relay_p50_vs_txoutbox",
    "relay_p99_vs_txoutbox",
    "saga_vs_dbos_c1",
    "saga_vs_dbos_c64",
    "saga_vs_dbos_c256",
    "saga_latency_vs_dbos_c1",
]
TINY = Settings(
    rounds=1,
    seconds=0.1,
    warm_s=0.1,
    warm_side_s=0.02,
    pause_s=0.02,
    rows=500,
    latency_s=0.2,
    sagas=300,
    lease_s=2.0,
)


def full_book() -> Book:
    """A book in which every side was measured in three rounds."""
    book = Book()
    for ratio in (*RATIOS, *MORE):
        for side, measure_ in (ratio.above, ratio.below):
            if measure_ not in book.sides.get(side, {}):
                for value in (3.0, 1.0, 2.0):
                    book.note(side, {measure_: value})
    return book


def test_the_ratios_are_exactly_those_that_are_promised():
    """By name, in a report of a whole run and of an empty one."""
    for book in (full_book(), Book()):
        written = json.loads(json.dumps(report(book, Settings(), postgres="18")))
        assert sorted(written["ratios"]) == sorted(NAMES)
        assert sorted(written["targets"]) == sorted(NAMES)


def test_a_report_says_what_was_measured_on_what_and_when():
    """Medians with their minimum and maximum, versions, machine, settings, date."""
    written = json.loads(json.dumps(report(full_book(), Settings(rounds=3), postgres="18.6")))
    assert all(value == 1.0 for value in written["ratios"].values())
    assert written["sides"]["aiokafka.c1"]["rate"] == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}
    assert written["versions"]["postgresql"] == "18.6"
    assert written["versions"].keys() >= {"aiokafka", "asyncpg", "commit", "dbos", "kafka", "python", "txoutbox"}
    assert written["machine"].keys() >= {"cores", "processor", "load_average"}
    assert written["settings"]["rounds"] == 3
    assert written["date"]


def test_what_was_not_measured_is_null_and_neither_met_nor_missed():
    """A partial run makes nothing up."""
    written = report(Book(), Settings(), postgres="18")
    assert set(written["ratios"].values()) == {None}
    assert {judged["met"] for judged in written["targets"].values()} == {None}


def test_a_ratio_is_one_of_medians_and_is_held_to_its_target():
    """Also where a median of ratios would say otherwise."""
    book = Book()
    for ours, theirs in ((10.0, 1.0), (2.0, 2.0), (3.0, 6.0)):
        book.note("ours", {"rate": ours})
        book.note("theirs", {"rate": theirs})
    ratio = Ratio("r", ("ours", "rate"), ("theirs", "rate"), 1.5, "ours ÷ theirs")
    assert ratio.of(book) == 1.5
    assert ratio.met(book) is True
    assert dataclasses.replace(ratio, at_least=1.51).met(book) is False
    assert ratio.by_round(book) == [10.0, 1.0, 0.5]


def test_latency_ratios_are_theirs_above_ours():
    """A latency that is half of theirs is a ratio of two, as a rate that is twice theirs is."""
    for ratio in RATIOS:
        if ratio.above[1] != "rate":
            assert ratio.above[0].startswith(("aiokafka", "txoutbox", "dbos")), ratio.name


def test_medians_percentiles_and_orders():
    """The arithmetic."""
    assert summarised([5.0, 1.0, 3.0]) == {"median": 3.0, "min": 1.0, "max": 5.0, "rounds": [5.0, 1.0, 3.0]}
    assert percentile(range(100), 0.99) == 99
    assert percentile(range(1000), 0.5) == 500
    assert percentile([7.0], 0.99) == 7.0
    assert [there_and_back("ab", number) for number in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_a_message_says_its_number_in_500_bytes():
    """Whatever the number."""
    for number in (0, 9, 10, 123456):
        assert len(value_of(number)) == 500
        assert number_of(value_of(number)) == number


def test_late_and_doubled_messages_are_misplaced():
    """Order is per key; a gap is for the count to notice."""
    seen = Seen()
    seen.take([(b"a", 0), (b"b", 0), (b"a", 1), (b"b", 5)])
    assert (seen.count, seen.misplaced) == (4, 0)
    seen.take([(b"a", 1), (b"b", 4)])
    assert (seen.count, seen.misplaced) == (6, 2)


@pytest.mark.parametrize("name", ["ratios"])
def test_a_page_is_changed_between_its_markers_only(name):
    """And not at all without them."""
    page = f"before\n<!-- measured: {name} -->\nold\n<!-- end -->\nafter\n"
    body = markdown(report(full_book(), Settings(), postgres="18"))
    changed = between_markers(page, name, body)
    assert changed.startswith("before\n")
    assert changed.endswith("<!-- end -->\nafter\n")
    assert "old" not in changed
    assert all(f"`{name}" in changed for name in NAMES)
    with pytest.raises(ValueError, match="0 places"):
        between_markers("nothing", name, body)


def test_charts_show_every_point_in_its_order():
    """Well-formed, a circle for each point, greater is higher, and every line is named."""
    lines = {
        "ours": [(1, 10.0, 9.0, 12.0), (8, 40.0, 30.0, 50.0)],
        "a & b": [(1, 20.0, 19.0, 21.0), (8, 5.0, 4.0, 6.0)],
    }
    drawn = ElementTree.fromstring(chart("Title", "x", "y", lines))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in drawn.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(circles) == 4
    assert circles[0][0] < circles[1][0]
    assert circles[0][1] > circles[1][1]
    assert circles[2][1] < circles[3][1]
    assert {"ours", "a & b", "Title"} <= {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}


def test_the_charts_of_the_page_are_drawn_from_what_was_measured():
    """All of them, and the page's table with them."""
    one = {"median": 2.0, "min": 1.0, "max": 3.0}
    points = {
        f"{curve.name}/{side}/{x}": {"rate": one, "p50_ms": one, "cpu_us": one}
        for curve in CURVES
        for side in curve.sides
        for x in curve.shapes
    }
    data = {
        "points": points,
        "machine": {"cores": 2, "load_average": [1.0]},
        "rounds": 3,
        "date": "2026-11-24T16:00:00",
    }
    page = growth_markdown(data)
    for name, svg in drawings(data).items():
        ElementTree.fromstring(svg)
        assert f"(plots/{name})" in page


def test_what_is_written_in_c_counts_for_its_callers():
    """And everything counts once."""
    ours, theirs = (
        (str(ROOT / "coordinator/engine/driver.py"), 1, "drive"),
        ("/x/site-packages/asyncpg/pool.py", 2, "f"),
    )
    built_in = ("~", 0, "<built-in method builtins.len>")
    stats = {
        ours: (1, 1, 3.0, 5.0, {}),
        theirs: (1, 1, 1.0, 1.0, {ours: (1, 1, 1.0, 1.0)}),
        built_in: (2, 2, 0.75, 0.75, {ours: (1, 1, 0.5, 0.5), theirs: (1, 1, 0.25, 0.25)}),
    }
    assert shares(stats) == {"engine": 3.5, "asyncpg": 1.25}


@pytest.mark.parametrize(
    ("numbers", "expected", "complaint"),
    [([0, 1], 3, "3 messages were sent, and 2"), ([0, 1, 1], 2, "and 3 are"), ([1, 0], 2, "1 of 2 messages are out")],
)
async def test_a_loss_a_double_and_a_wrong_order_on_the_broker_are_noticed(
    kafka, topic, monkeypatch, numbers, expected, complaint
):
    """What `make bench` ends with 1 for."""
    monkeypatch.setattr("tests.benchmarks.readback.PATIENCE_S", 0.5)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in numbers:
            await producer.send_and_wait(topic, value_of(number), key=b"k")
    with pytest.raises(Wrong, match=complaint):
        await check(kafka.bootstrap, topic, expected)


def test_a_saga_that_comes_to_another_result_is_noticed():
    """On either side."""
    expect(3, 3)
    with pytest.raises(Wrong, match="came to 4, and not to 3"):
        expect(4, 3)


def test_ours_is_held_against_the_fastest_of_theirs():
    """And a run says what that was told."""
    assert set(SIDES) == {"saga", *DBOS}
    assert told_as(DBOS["dbos_defaults"]) == "its defaults"
    assert told_as(DBOS["dbos_tuned"]) == "sys_db_pool_size=64, use_listen_notify=False"


@pytest.fixture
async def stage(postgres, kafka):
    """A tiny run on the session's servers; its databases are dropped afterwards."""
    yield Stage(postgres, kafka, TINY, progress=Progress())
    connection = await asyncpg.connect(postgres.url)
    try:
        made = await connection.fetch(
            "SELECT datname FROM pg_database WHERE datname = 'transactions' OR datname ~ '^(drain|latency|sagas)_'"
        )
    finally:
        await connection.close()
    for row in made:
        await postgres.drop_database(row["datname"])


@pytest.mark.timeout(180)
async def test_a_tiny_run_measures_everything(stage):
    """Every promised ratio comes out of it as a number, and it says as many steps as it announced."""
    parts = parts_of(None)
    await measure(stage, parts)
    written = report(stage.book, TINY, postgres="18")
    assert all(isinstance(value, float) and value > 0 for value in written["ratios"].values()), written["ratios"]
    assert stage.progress.done == steps(parts, TINY, CONCURRENCY)
