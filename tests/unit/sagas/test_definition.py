"""A definition that breaks a rule is refused when it is built, with an error that quotes it."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from coordinator import InvalidDefinition
from coordinator.sagas import Attempts, Saga, await_signal, sleep, step


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
    named = Saga("a", step(reserve), version="2")
    assert (named.label, named.identity) == ("a@2", f"a@2#{named.digest}")
    assert Saga("a", step(reserve, compensate=release), version="2").identity != named.identity


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
    "what is read once": (lambda: await_signal("paid", of=Iterable[int]), "the signal 'paid' cannot be stored as JSON"),
    "unserialisable signal": (lambda: await_signal("paid", of=Unserialisable), "the signal 'paid' cannot be stored"),
    "by position only": (lambda: Saga("s", step(reserve), step(positional)), "takes 'reserve' by its position only"),
    "nothing": (lambda: Saga("s"), "has no steps"),
    "too much": (lambda: Saga("s", *(step(reserve, name=f"s{n}") for n in range(101))), "has 101 steps; from 1 to 100"),
    "a list of steps": (
        lambda: Saga("s", [step(reserve), step(charge)]),
        r"is no step: write \*steps",
    ),
    "a pivot in words": (
        lambda: Saga("s", step(reserve, pivot="no")),
        "step 'reserve': pivot is True or False, not 'no'",
    ),
    "no step": (lambda: Saga("s", reserve), "is no step: write step"),
    "a word of ours": (lambda: Saga("s", step(reserve, name="request")), "a step cannot be called 'request'"),
    "a quotation mark": (lambda: Saga("s", step(reserve, name='say "go"')), "a step cannot be called 'say \"go\"'"),
    "no name": (lambda: Saga("", step(reserve)), "a saga has a name"),
    "nothing at once": (lambda: Saga("s", step(reserve), parallel=0), "saga 's': parallel=0 is not how many"),
    "no deadline": (
        lambda: Saga("s", step(reserve), deadline_s=0),
        "saga 's': deadline_s 0: a time is a number of seconds, above zero",
    ),
    "no end of time": (lambda: Saga("s", step(reserve), deadline_s=float("inf")), "deadline_s inf: a time is a number"),
    "endless sleep": (lambda: sleep("wait", float("inf")), "sleeps for inf: a time is a number"),
    "endless patience": (
        lambda: await_signal("paid", within=float("nan")),
        "waits for its signal for nan: a time is a number",
    ),
    "unknown policy": (lambda: step(reserve, on_unknown="undo"), "on_unknown is one of 'compensate', 'retry', 'ask', "),
    "no patience": (lambda: await_signal("paid", within=0), "'paid' waits for its signal for 0: a time is a number of"),
    "no status": (lambda: step(reserve, on_unknown="ask"), "has no status="),
    "no time": (lambda: step(reserve, timeout_s=0), "timeout_s 0: a time is a number of seconds, above zero"),
    "negative sleep": (lambda: sleep("wait", -1), "sleeps for -1: a time is a number of seconds, none or"),
    "a time in words": (
        lambda: step(reserve, timeout_s="5"),
        "'reserve': timeout_s '5': a time is a number of seconds",
    ),
    "a timedelta": (lambda: sleep("wait", timedelta(1)), "a time is a number of seconds"),
    "a deadline in words": (lambda: Saga("s", step(reserve), deadline_s="5"), "deadline_s '5': a time is a number"),
    "attempts as a number": (lambda: step(reserve, retry=5), "write retry=Attempts(at_most="),
    "undoing as a number": (lambda: step(reserve, undo_retry=5), "write undo_retry=Attempts(at_most="),
    "half an attempt": (lambda: Attempts(at_most=2.5), "attempts are whole"),
    "endless attempts": (lambda: Attempts(at_most=float("inf")), "attempts are whole"),
    "a pause of none": (lambda: Attempts(backoff_s=float("nan")), "times are seconds"),
    "an end of none": (lambda: Attempts(within_s=0), "times are seconds"),
    "half a step at once": (lambda: Saga("s", step(reserve), parallel=1.5), "parallel=1.5 is not how many"),
    "nothing to call": (lambda: step(None), "the action of a step is an async function, not None"),
    "an undo that is none": (lambda: step(reserve, compensate="release"), "the compensation of a step is an async"),
    "a participant that is none": (lambda: step(reserve, participant=5), "a participant is named by text, not by 5"),
    "after a function": (lambda: step(charge, after=reserve), "after= takes the names of steps, and not <function"),
    "a name that is none": (lambda: step(reserve, name=5), "a step is named by text; give this one a name=: 5"),
    "an operator's word": (lambda: await_signal("!cancel"), "a signal's name does not begin with '!'"),
    "a name with a version": (lambda: Saga("s@1", step(reserve)), "without '@': 's@1'"),
    "a saga without a name": (lambda: Saga(step(reserve)), "a saga has a name"),
    "a name too long": (lambda: step(reserve, name="r" * 501), "a name is text of at most 500 bytes"),
}


async def odd_sibling() -> None:
    return None


@pytest.mark.parametrize("rule", BROKEN)
def test_a_definition_that_breaks_a_rule_is_refused(rule):
    build, said = BROKEN[rule]
    with pytest.raises(InvalidDefinition, match=said.replace("(", r"\(")):
        build()


def test_a_partial_is_named_after_its_function_in_every_process():
    assert list(Saga("s", step(partial(reserve))).steps) == ["reserve"]


async def note(charge: int) -> None:
    return None


def test_what_is_behind_the_pivot_has_the_patience_of_what_is_owed_unless_it_is_given_another():
    """There is no way back from there, so giving up early only calls an operator."""
    saga = Saga(
        "s",
        step(reserve),
        step(charge, pivot=True, on_unknown="retry"),
        step(ship),
        step(note, retry=Attempts(at_most=2)),
    )
    assert [each.attempts.at_most for each in saga.steps.values()] == [3, 3, 20, 2]
    assert [each.attempts_in_doubt.at_most for each in saga.steps.values()] == [3, 20, 20, 2]


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


def test_a_definition_says_what_it_is():
    saga = Saga("checkout", step(reserve, compensate=release), step(charge), version="2")
    assert repr(saga) == "<Saga checkout@2: reserve, charge>"
