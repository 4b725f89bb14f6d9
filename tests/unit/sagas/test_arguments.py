"""What a call is given: copies of its own, which are the values that were kept, whatever their validators would say."""

import threading
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, PrivateAttr

from coordinator import Coordinator
from coordinator.sagas import Saga, step
from coordinator.sagas.steps import Call


class Price(BaseModel):
    """Its validator makes another value of what it has made already."""

    amount: Annotated[int, BeforeValidator(lambda amount: 100 * amount)]


async def test_a_step_is_given_what_the_outcome_says():
    charged = []

    async def price() -> Price:
        return Price(amount=5)

    async def charge(price: Price) -> None:
        charged.append(price.amount)

    saga = Saga("charge", step(price), step(charge))
    async with Coordinator(journal="memory://arguments", sagas=[saga]) as coordinator:
        outcome = await coordinator.run(saga)
    assert charged == [outcome.outputs["price"].amount]


clock = {"late": False}


def in_time(day: int) -> int:
    """As a validator that looks at the clock."""
    if clock["late"]:
        raise ValueError("it is too late")
    return day


class Due(BaseModel):
    day: Annotated[int, AfterValidator(in_time)]


def given(value) -> object:
    async def call(request) -> None: ...

    return Call(call, ("request",), takes_context=False).keywords({"request": value})["request"]


def test_what_was_right_when_it_was_given_is_handed_out(monkeypatch):
    """Its compensation is owed, whatever time it is by now."""
    due = Due(day=1)
    monkeypatch.setitem(clock, "late", True)
    own = given([due])
    assert own == [due]
    assert own[0] is not due


class Guarded(BaseModel):
    amount: int
    _lock = PrivateAttr(default_factory=threading.Lock)


def test_what_will_not_be_copied_is_handed_out_itself():
    guarded = Guarded(amount=1)
    assert given(guarded) is guarded
