"""A definition that breaks a rule is refused when it is built, with an error that quotes it."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from coordinator import InvalidDefinition
from coordinator.sagas import Saga, await_signal, sleep, step


class Order(BaseModel):
    item: str


class Unserialisable:
    pass


async def reserve(request: Order) -> str:
    return request.item


async def release(reserve: str) -> None:
    return None


async def charge(request: Order, reserve: str) -> int:
    return 1


async def refund(request: Order, charge: int) -> None:
    return None


async def ship(charge: int) -> str:
    return "shipped"


def test_a_saga_of_three_steps_reads_in_a_dozen_lines_and_is_in_order():
    saga = Saga(
        "checkout",
        step(reserve, compensate=release),
        step(charge, compensate=refund),
        step(ship, pivot=True),
    )
    assert list(saga.steps) == ["reserve", "charge", "ship"]
    assert saga.steps["charge"].after == ("reserve",)
    assert saga.identity == f"checkout@{saga.digest}"


def test_the_digest_is_of_the_shape_and_a_version_may_be_named():
    once, again = Saga("a", step(reserve)), Saga("a", step(reserve))
    assert once.identity == again.identity
    assert Saga("a", step(reserve, compensate=release)).identity != once.identity
    assert Saga("a", step(reserve), version="2").identity == "a@2"


async def untyped(request: Order):
    return 1


async def takes_any(reserve: Any, nonsense: int) -> None:
    return None


async def odd() -> Unserialisable:
    return Unserialisable()


async def other_input(request: int) -> int:
    return request


def plain(request: Order) -> int:
    return 1


async def callback() -> Callable[[], int]:
    return int


async def positional(reserve: str, /) -> None:
    return None


BROKEN = {
    "cycle": (
        lambda: Saga("s", step(reserve, after="ship"), step(ship, name="ship", after="reserve")),
        "has a cycle: ",
    ),
    "a version in two lines": (lambda: Saga("s", step(reserve), version="1\n2"), "of printable characters"),
    "two of a name": (lambda: Saga("s", step(reserve), step(reserve)), "two steps are called 'reserve'"),
    "two pivots": (lambda: Saga("s", step(reserve, pivot=True), step(charge, pivot=True)), "two pivots, 'reserve' and"),
    "unknown step": (
        lambda: Saga("s", step(reserve, after="nowhere")),
        "'reserve' comes after 'nowhere', which is none",
    ),
    "undo behind the pivot": (
        lambda: Saga("s", step(reserve, pivot=True), step(charge, compensate=refund)),
        "'charge' is behind the pivot 'reserve', so its compensation can never run",
    ),
    "undo of the pivot": (lambda: Saga("s", step(reserve, pivot=True, compensate=release)), "and is never undone"),
    "beside the pivot": (
        lambda: Saga("s", step(reserve, pivot=True), step(odd_sibling, after=())),
        "is neither before nor behind the pivot 'reserve'",
    ),
    "unknown pivot": (
        lambda: Saga("s", step(reserve, pivot=True, on_unknown="compensate")),
        "nobody can undo the pivot 'reserve'",
    ),
    "no output type": (lambda: Saga("s", step(untyped)), "write down what untyped of step 'untyped' returns"),
    "unserialisable": (lambda: Saga("s", step(odd)), "what odd of step 'odd' returns cannot be stored as JSON"),
    "unknown argument": (lambda: Saga("s", step(reserve), step(takes_any)), "takes 'nonsense', which is neither"),
    "another input": (lambda: Saga("s", step(reserve), step(other_input)), "do not agree on the type of 'request'"),
    "not async": (lambda: Saga("s", step(plain)), "plain of step 'plain' is no async function"),
    "function as an output": (lambda: Saga("s", step(callback)), "what callback of step 'callback' returns cannot be"),
    "unserialisable signal": (lambda: await_signal("paid", of=Unserialisable), "the signal 'paid' cannot be stored"),
    "by position only": (lambda: Saga("s", step(reserve), step(positional)), "takes 'reserve' by its position only"),
    "nothing": (lambda: Saga("s"), "has no steps"),
    "too much": (lambda: Saga("s", *(step(reserve, name=f"s{n}") for n in range(101))), "has 101 steps; from 1 to 100"),
    "no step": (lambda: Saga("s", reserve), "is no step: write step"),
    "a word of ours": (lambda: Saga("s", step(reserve, name="request")), "a step cannot be called 'request'"),
    "a quotation mark": (lambda: Saga("s", step(reserve, name='say "go"')), "a step cannot be called 'say \"go\"'"),
    "no name": (lambda: Saga("", step(reserve)), "a saga has a name"),
    "nothing at once": (lambda: Saga("s", step(reserve), parallel=0), "saga 's': parallel=0 would let none"),
    "no deadline": (lambda: Saga("s", step(reserve), deadline_s=0), "saga 's': deadline_s is no time: 0"),
    "no end of time": (lambda: Saga("s", step(reserve), deadline_s=float("inf")), "deadline_s is no time: inf"),
    "endless sleep": (lambda: sleep("wait", float("inf")), "sleeps for inf seconds"),
    "endless patience": (lambda: await_signal("paid", within=float("nan")), "waits for its signal for nan seconds"),
    "unknown policy": (lambda: step(reserve, on_unknown="undo"), "on_unknown is one of 'compensate', 'retry', 'ask', "),
    "no patience": (lambda: await_signal("paid", within=0), "'paid' waits for its signal for 0 seconds"),
    "no status": (lambda: step(reserve, on_unknown="ask"), "has no status="),
    "no time": (lambda: step(reserve, timeout_s=0), "timeout_s is above zero"),
    "negative sleep": (lambda: sleep("wait", -1), "sleeps for -1 seconds"),
}


async def odd_sibling() -> None:
    return None


@pytest.mark.parametrize("rule", BROKEN)
def test_a_definition_that_breaks_a_rule_is_refused(rule):
    build, said = BROKEN[rule]
    with pytest.raises(InvalidDefinition, match=said.replace("(", r"\(")):
        build()


def test_a_signal_is_an_input_of_later_steps():
    async def confirm(paid: int) -> None:
        return None

    saga = Saga("s", await_signal("paid", within=60, of=int), step(confirm))
    assert list(saga.steps) == ["paid", "confirm"]


def test_a_step_may_be_part_of_several_sagas_in_another_place_of_each():
    shipping = step(ship)
    once = Saga("s", step(reserve), step(charge), shipping, version="1")
    again = Saga("s", step(untold, name="charge"), step(reserve), shipping, version="2")
    assert shipping.after is None
    assert (once.steps["ship"].after, again.steps["ship"].after) == (("charge",), ("reserve",))


async def untold(request) -> str:
    return str(request)


@pytest.mark.parametrize("order", [(reserve, untold), (untold, reserve)])
def test_a_step_that_does_not_say_of_which_type_the_input_is_agrees_with_all(order):
    saga = Saga("s", *(step(each) for each in order))
    assert saga.input.validate_python({"item": "apple"}) == Order(item="apple")


class Coin:
    pass


def test_a_type_with_a_reader_and_a_writer_of_its_own_can_be_stored():
    kept = Annotated[Coin, BeforeValidator(lambda _: Coin()), PlainSerializer(lambda _: 1)]

    class Purse(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        coin: kept

    async def earn() -> Purse:
        return Purse(coin=1)

    assert list(Saga("s", step(earn)).steps) == ["earn"]
