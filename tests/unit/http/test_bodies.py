"""What is sent is the same in every process, whatever order that has a set in."""

import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, PlainSerializer, RootModel, computed_field, field_serializer
from pydantic.dataclasses import dataclass as of_pydantic
from pydantic_core import to_json

from participants.http.bodies import body_of

FRUITS = ["apple", "fig", "grape", "kiwi", "lemon", "pear", "plum"]


class Box(BaseModel, frozen=True):
    """It may stand in a set."""

    of: frozenset[str]
    amount: int = 1


class Order(BaseModel):
    """Sets at many places, and what has no field of its own."""

    items: set[str]
    aliased: set[str] = Field(serialization_alias="by another name")
    nested: dict[int, list[set[str]]]
    boxes: set[Box]
    excluded: set[str] = Field(exclude=True)

    @computed_field
    @property
    def count(self) -> int:
        return len(self.items)

    @computed_field(alias="first ones")
    @property
    def some(self) -> set[str]:
        return {*sorted(self.items)[:4]}


class Anything(BaseModel, extra="allow"):
    """What it has is not written anywhere."""


@of_pydantic
class Aliased:
    """As pydantic has dataclasses."""

    items: set[str] = Field(serialization_alias="by another name")


class Chosen(BaseModel):
    """Its order means something."""

    stops: frozenset[str]

    annotated: Annotated[frozenset[str], PlainSerializer(lambda stops: sorted(stops, key=len, reverse=True))]

    @field_serializer("stops")
    def way(self, stops: frozenset[str]) -> list[str]:
        return sorted(stops, key=len, reverse=True)


@dataclass
class Plain:
    """As a body function may make it."""

    items: set[str]
    pair: tuple[str, set[str]]


class Root(RootModel[set[str]]):
    """A body that is a list."""


def made():
    """All kinds of bodies, as this process has them."""
    fruits = set(FRUITS)
    boxes = {Box(of=frozenset(FRUITS[:n])) for n in range(4)}
    order = Order(items=fruits, aliased=fruits, nested={1: [fruits]}, boxes=boxes, excluded=fruits)
    others = [Anything(free=fruits), Aliased(fruits), {"a": deque([fruits])}]
    return [order, Plain(fruits, ("z", fruits)), Root(fruits), {"a": fruits, "b": [order]}, fruits, None, 1.5, *others]


def test_a_body_is_the_same_in_every_process():
    program = "from tests.unit.http.test_bodies import *; print([body_of(each) for each in made()])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1
    assert printed == {f"{[body_of(each) for each in made()]}\n".encode()}


def test_what_is_in_a_set_is_sorted_and_nothing_is_lost():
    assert body_of({"items": set(FRUITS), "z": ["b", "a"]}) == to_json({"items": FRUITS, "z": ["b", "a"]})
    assert body_of(Plain(set(), ("z", {"b", "a"}))) == b'{"items":[],"pair":["z",["a","b"]]}'


def test_an_order_that_a_type_chooses_is_kept():
    """Also where it happens to be the one that the set has in this process: for two items that is every other one."""
    for last in FRUITS:
        stops = frozenset({"a", last})
        assert body_of(Chosen(stops=stops, annotated=stops)) == to_json(
            {"stops": [last, "a"], "annotated": [last, "a"]}
        )


@pytest.mark.parametrize("value", [{"b": 1, "a": [2.50, "x", None, 10**30]}, "text", [["b", "a"]], {1: "x"}])
def test_without_sets_it_is_what_it_was(value):
    assert body_of(value) == to_json(value)
