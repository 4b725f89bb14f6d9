"""What is kept as JSON is what it was: what would be another value when it is read again is refused, and named."""

import dataclasses
import datetime
import enum
import re
from collections import deque
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
)
from typing_extensions import TypedDict

from coordinator import Coordinator
from coordinator.errors import InvalidDefinition, KeyReused
from coordinator.sagas import Saga, await_signal, step
from coordinator.sagas.values import adapter, kept


class Card(BaseModel):
    number: SecretStr


class Shown(BaseModel):
    """Whoever writes a serializer of his own knows what it writes."""

    number: Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), return_type=str)]
    other: Secret[int] = Secret(1)

    @field_serializer("other")
    def _other(self, secret: Secret[int]) -> int:
        return secret.get_secret_value()

    @computed_field
    @property
    def stars(self) -> SecretStr:
        return self.number


class LeftOut(BaseModel):
    amount: int
    currency: str = Field(default="EUR", exclude=True)


@dataclasses.dataclass
class Given:
    amount: int
    currency: dataclasses.InitVar[str] = "EUR"


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        (SecretStr, "it is a secret"),
        (SecretBytes, "it is a secret"),
        (Secret[int], "it is a secret"),
        (Card, "'number' is a secret"),
        (dict[str, list[Card]] | None, "'number' is a secret"),
        (LeftOut, "'currency' is left out"),
        (Given, "'currency' is left out"),
    ],
    ids=repr,
)
def test_a_type_that_does_not_write_all_of_itself_is_refused(hint, told):
    async def charge(request) -> None: ...
    async def fetch() -> None: ...

    charge.__annotations__["request"] = fetch.__annotations__["return"] = hint
    for build in (lambda: Saga("s", step(charge)), lambda: Saga("s", step(fetch)), lambda: await_signal("s", of=hint)):
        with pytest.raises(InvalidDefinition, match=told):
            build()


NAMES_IN_SCHEMAS = ["metadata", "serialization", "computed_fields", "config", "default", "expected", "members", "type"]


@pytest.mark.parametrize("name", [*NAMES_IN_SCHEMAS, "init_only", "serialization_exclude", "name", "function"])
def test_a_field_is_looked_at_whatever_its_name_is(name):
    """Schemas have the same names for what is no part of a type."""
    adapter("it", create_model("Plain", **{name: (int, 1), "other": (int, 1)}))
    adapter("it", TypedDict("Plain", {name: int, "other": int}))
    for hint in (create_model("Login", **{name: (Card, ...)}), TypedDict("Login", {name: Card})):
        with pytest.raises(InvalidDefinition, match="'number' is a secret"):
            adapter("it", hint)
    with pytest.raises(InvalidDefinition, match=f"'{name}' is a secret"):
        adapter("it", create_model("Login", **{name: (SecretStr, ...)}))


itself: dict[str, Any] = {}
itself["itself"] = itself


@pytest.mark.parametrize("default", [{"init_only": True, "serialization_exclude": True}, itself])
def test_a_default_is_a_value_and_no_part_of_the_type(default):
    adapter("it", create_model("Settings", chosen=(dict[str, Any], default)))


class Base(BaseModel):
    amount: int = 1


class Rush(Base):
    rush: bool = False


class Same(Base):
    _noted: str = PrivateAttr("")


class Marked(BaseModel):
    """Equals no other: what is private is another object in each."""

    model_config = ConfigDict(frozen=True)
    amount: int
    _mark: object = PrivateAttr(default_factory=object)


class More(Marked):
    more: int


@dataclasses.dataclass(eq=False)
class Unlike:
    amount: int


class Approved(BaseModel):
    by: str


class Rejected(BaseModel):
    by: str


class Colour(enum.Enum):
    RED = 1


class Rounded(BaseModel):
    amount: Decimal

    @field_serializer("amount")
    def _rounded(self, amount: Decimal) -> str:
        return f"{amount:.2f}"


class Cents(BaseModel):
    """Its validator makes another value of what it has made already."""

    amount: int

    @field_validator("amount", mode="before")
    @classmethod
    def _cents(cls, amount: int) -> int:
        return 100 * amount


class Measured(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    value: float


@dataclasses.dataclass
class Derived:
    amount: int
    doubled: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.doubled = 2 * self.amount


class Opaque:
    """Says nothing of which others are the same."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: Any) -> Any:
        read = Annotated[Any, PlainSerializer(lambda _: "opaque")]
        schema = handler.generate_schema(read)
        return {
            "type": "function-after",
            "function": {"type": "no-info", "function": lambda _: cls()},
            "schema": schema,
        }


def otherwise(amount: int, doubled: int) -> Derived:
    made = Derived(amount)
    made.doubled = doubled
    return made


@pytest.mark.parametrize(
    ("hint", "value", "told"),
    [
        (Base, Rush(rush=True), "'rush'"),
        (list[Base], [Base(), Rush()], "'rush'"),
        (Rounded, Rounded(amount=Decimal("1.005")), "'amount'"),
        (Cents, {"amount": 3}, "'amount'"),
        (Derived, otherwise(1, 5), "'doubled'"),
        (dict, {1: "a"}, "it"),
        (Any, {"day": datetime.date(2026, 1, 1)}, "'day'"),
        (Any, [{1}], r"it\[0\]"),
        (Any, Colour.RED, "it"),
        (Approved | Rejected, Rejected(by="me"), "it"),
        (deque[Base], deque([Base(), Rush()]), "'rush'"),
        (frozenset[Marked], {More(amount=1, more=2)}, "it"),
    ],
    ids=repr,
)
def test_a_value_that_would_be_another_one_is_refused(hint, value, told):
    with pytest.raises(ValueError, match=f"{told} would be read again as another value"):
        kept(adapter("it", hint), value)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Shown, Shown(number=SecretStr("4711"), other=Secret(7))),
        (Base, Same()),
        (Rounded, Rounded(amount=Decimal(1))),
        (Measured, Measured(value=float("nan"))),
        (Derived, Derived(2)),
        (dict[int, str], {1: "a"}),
        (Any, (1, {"a": (2,)})),
        (datetime.datetime, datetime.datetime(2026, 10, 27, 2, 30, fold=1)),  # noqa: DTZ001
        (int, True),
        (Opaque, Opaque()),
        (Base, {"amount": "7"}),
        (Approved | Rejected, Approved(by="me")),
        (frozenset[Marked], {Marked(amount=1), Marked(amount=2)}),
        (deque[Marked], deque([Marked(amount=1)])),
        (set[Unlike], {Unlike(1)}),
    ],
    ids=repr,
)
def test_a_value_that_is_the_same_again_is_kept(hint, value):
    kept(adapter("it", hint), value)


BERLIN = ZoneInfo("Europe/Berlin")


@dataclasses.dataclass
class Booking:
    at: datetime.datetime


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("day", [datetime.date(2026, 3, 29), datetime.date(2026, 10, 25)], ids=str)
def test_a_time_of_the_hour_in_which_clocks_change_is_kept(day, fold):
    """Python calls it equal to no time of another zone."""
    at = datetime.datetime.combine(day, datetime.time(2, 30, fold=fold), BERLIN)
    for hint, value in (
        (datetime.datetime, at),
        (Booking, Booking(at)),
        (list[Booking], [Booking(at)]),
        (set[datetime.datetime], {at}),
        (dict[datetime.datetime, int], {at: 1}),
    ):
        kept(adapter("it", hint), value)


def test_a_time_that_is_written_as_another_one_is_refused():
    later = PlainSerializer(lambda at: (at + datetime.timedelta(hours=1)).isoformat(), return_type=str)
    at = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)
    for hint, value in ((Annotated[datetime.datetime, later], at), (set[Annotated[datetime.datetime, later]], {at})):
        with pytest.raises(ValueError, match="it would be read again as another value"):
            kept(adapter("it", hint), value)


async def test_an_input_and_a_signal_of_which_something_would_be_lost_are_refused():
    """Two orders that only differ in that would count as one; a step would be given another value than was meant."""

    async def charge(request: Base) -> None: ...

    saga = Saga("s", step(charge), await_signal("more", of=Base))
    async with Coordinator(journal="memory://lossless", sagas=[saga]) as coordinator:
        with pytest.raises(InvalidDefinition, match="'rush' would be read again"):
            await coordinator.start(saga, Rush(rush=True), key="order-1")
        handle = await coordinator.start(saga, Base(), key="order-1")
        with pytest.raises(InvalidDefinition, match="'rush' would be read again"):
            await handle.signal("more", Rush(rush=True))
        with pytest.raises(KeyReused):
            await coordinator.start(saga, Base(amount=2), key="order-1")


class Cash(BaseModel):
    paid_by: Literal["cash"]
    amount: int = Field(alias="sum")


class Transfer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    paid_by: Literal["transfer"]
    accounts: dict[str, int] = {}
    days: dict[int, int] = {}
    parts: list[Cash] = []
    zone: ZoneInfo | None = None


Payment = Annotated[Cash | Transfer, Field(discriminator="paid_by")]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"paid_by": "4111"}, "it: union_tag_invalid"),
        ({"paid_by": "transfer", "accounts": {"4111": "x"}}, "transfer.accounts.…: Input should be a valid integer"),
        ({"paid_by": "transfer", "days": {41110: "x"}}, "transfer.days.…: Input should be a valid integer"),
        ({"paid_by": "transfer", "days": {"4111x": 1}}, "transfer.days.….[key]: Input should be a valid integer"),
        ({"paid_by": "transfer", "4111": 1}, "transfer.…: Extra inputs are not permitted"),
        ({"paid_by": "transfer", "zone": "4111"}, "transfer.zone: zoneinfo_str"),
        ({"paid_by": "cash"}, "cash.sum: Field required"),
        ({"paid_by": "transfer", "parts": [{"paid_by": "cash", "sum": "4111x"}]}, "transfer.parts.0.sum: Input should"),
    ],
)
def test_an_error_says_where_it_is_in_the_words_of_the_type_alone(given, told):
    """It is kept where operators look: what was given, keys of mappings among it, may be a secret."""
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        kept(adapter("it", Payment), given)
    assert "4111" not in str(refused.value)
