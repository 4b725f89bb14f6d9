"""A definition draws itself: every step, what it comes after, what undoes it, and where there is no way back."""

import re
from xml.etree import ElementTree

import pytest

from coordinator.sagas import Saga, await_signal, sleep, step

SVG = "{http://www.w3.org/2000/svg}"


def act(name, *, undo="", **options):
    """A step that does nothing."""

    async def action() -> None: ...

    async def compensate() -> None: ...

    compensate.__name__ = undo
    return step(action, name=name, compensate=compensate if undo else None, **options)


CHECKOUT = Saga(
    "checkout",
    act("reserve", undo="release"),
    act("charge", undo="refund", after="reserve"),
    act("pack", undo="unpack", after="reserve"),
    act("label", after="pack"),
    act("ship", after=("charge", "label"), pivot=True, on_unknown="retry"),
    sleep("wait", 60),
    await_signal("received", within=3600),
    act("<thank> & bye"),
    version="2",
)


def boxes(drawn):
    """Of each box in the picture: its texts and its rectangle."""
    return {
        tuple(text.text for text in group.iter(f"{SVG}text")): group.find(f"{SVG}rect").attrib
        for group in ElementTree.fromstring(drawn).iter(f"{SVG}g")
    }


def test_as_text():
    assert CHECKOUT.text().splitlines() == [
        "checkout@2",
        "  1  reserve        undone by release",
        "  2  ┌ charge       undone by refund",
        "     └ pack         undone by unpack",
        "  3  label          after pack",
        "  4  ship           pivot: from here it only goes forward; after charge, label",
        "  5  wait           sleeps for 60 s",
        "  6  received       waits for a signal, at most 3600 s",
        "  7  <thank> & bye",
    ]


def test_as_svg_it_is_well_formed_and_says_everything():
    drawn = boxes(CHECKOUT.svg())
    assert ("charge", "undone by refund") in drawn
    assert ("ship", "pivot: from here it only goes forward") in drawn
    assert ("<thank> & bye",) in drawn
    assert len(drawn) == len(CHECKOUT.steps)
    assert len(re.findall('class="arrow"', CHECKOUT.svg())) == 8


def test_an_arrow_that_follows_from_others_is_not_drawn():
    saga = Saga("chain", act("a"), act("b"), act("c", after=("a", "b")))
    assert len(re.findall('class="arrow"', saga.svg())) == 2
    assert "after" not in saga.text()


@pytest.mark.parametrize("width", [1, 2, 5])
def test_boxes_of_a_layer_stand_beside_each_other_and_inside_the_picture(width):
    """Also where an arrow passes a layer."""
    many = [act(f"step {number}", after="begin") for number in range(width)]
    last = [act("then", after="step 0"), act("end", after=("then", "begin", f"step {width - 1}"))]
    drawn = Saga("wide", act("begin"), *many, *last).svg()
    total = float(ElementTree.fromstring(drawn).attrib["width"])
    by_row = {}
    for box in boxes(drawn).values():
        by_row.setdefault(box["y"], []).append((float(box["x"]), float(box["x"]) + float(box["width"])))
    assert len(by_row) == 4
    for spans in by_row.values():
        ends = [0.0, *(end for span in sorted(spans) for end in span), total]
        assert ends == sorted(ends)
