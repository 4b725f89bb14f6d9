"""What sagas keep, as JSON: inputs, outputs, and what signals bring.

They are written under the names of their fields, and read by these or by their aliases: a model that others know by
aliases is read again as it was written. (These are the adapter's own two methods: those around them take longer.)
"""

import json
from typing import Any

from pydantic import ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from coordinator.errors import InvalidDefinition
from coordinator.sagas.lossless import changed, names, unkept

_TOLD_MAX = 5
_QUOTING = frozenset({"union_tag_invalid", "byte_size_unit", "zoneinfo_str", "import_error"})
"""The errors whose texts quote what was given."""
_KEY = 10_000
"""A number in the place of an error that is no less is the key of a mapping: hardly a list is so long."""


def adapter(what: str, hint: Any) -> TypeAdapter[Any]:
    """What writes and reads values of the type *hint*.

    Raises `InvalidDefinition`, of *what*, where JSON has none, or leaves out a part of them.
    """
    try:
        made: TypeAdapter[Any] = _adapter(hint)
        made.json_schema(schema_generator=_Storable)  # A function, say, has a type, and no JSON.
    except (PydanticUserError, PydanticUndefinedAnnotation) as unserialisable:
        raise InvalidDefinition(f"{what} cannot be stored as JSON: {hint!r}") from unserialisable
    if lost := unkept(made):
        raise InvalidDefinition(
            f"{what} cannot be stored as JSON: {lost}, and would be read again as another value: {hint!r}. Keep it "
            "elsewhere, and pass on what it is found by; or give it a serializer that writes it"
        )
    return made


def _adapter(hint: Any) -> TypeAdapter[Any]:
    """NaN is written as such, and then refused, instead of as null. (What a model makes of it is its own setting.)"""
    try:
        return TypeAdapter(hint, config=ConfigDict(ser_json_inf_nan="constants"))
    except PydanticUserError as has_its_own:
        if has_its_own.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(hint)


def write(kind: TypeAdapter[Any], value: Any) -> bytes:
    """*value* as JSON, without what its type computes. Raises `ValueError` where it has none.

    A type that is told to writes numbers that are none (NaN, Infinity): that is no JSON, and no database takes it.
    """
    text = kind.serializer.to_json(value, by_alias=False, round_trip=True, warnings=False)
    if b"NaN" in text or b"Infinity" in text:
        json.loads(text, parse_constant=_no_number)
    return text


def kept(kind: TypeAdapter[Any], value: Any) -> tuple[bytes, Any]:
    """*value* as JSON, and as whoever reads that has it. Raises `ValueError` where it is of another type, or would be
    another value by then.
    """
    try:
        valid = kind.validator.validate_python(value)
    except ValidationError as wrong:
        raise ValueError(_told(kind, wrong)) from None
    text = write(kind, valid)
    again = read(kind, text)
    if lost := changed(valid, again):
        raise ValueError(f"{lost} would be read again as another value than was given (see its type and serializers)")
    return text, again


def read(kind: TypeAdapter[Any], text: str | bytes) -> Any:
    """The value that JSON stands for. Raises `ValueError` where it is of another type."""
    try:
        return kind.validator.validate_json(text, by_alias=True, by_name=True)
    except ValidationError as wrong:
        raise ValueError(_told(kind, wrong)) from None


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} cannot be written as JSON")


def misfit(kind: TypeAdapter[Any], text: str | bytes) -> str:
    """What is wrong with JSON that cannot be read as this type; empty where it can."""
    try:
        read(kind, text)
    except ValueError as wrong:
        return str(wrong)
    return ""


def _told(kind: TypeAdapter[Any], wrong: ValidationError) -> str:
    """What does not fit. It quotes no value: this is kept where operators look, and a value may be a secret.

    So may the key of a mapping be: where something is, is told in the words of its type.
    """
    found = wrong.errors(include_url=False, include_context=False, include_input=False)[:_TOLD_MAX]
    own = {"[key]", *names(kind.core_schema)}
    return "; ".join(
        f"{'.'.join(_place(part, own) for part in each['loc']) or 'it'}: "
        f"{each['type'] if each['type'] in _QUOTING else each['msg']}"
        for each in found
    )


def _place(part: int | str, own: set[str]) -> str:
    return str(part) if part in own or (isinstance(part, int) and abs(part) < _KEY) else "…"


class _Storable(GenerateJsonSchema):
    """Refuses what JSON cannot hold; whoever brings a validator of his own knows how his type is read."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Nobody reads the schema."""

    def generator_schema(self, schema: Any) -> dict[str, Any]:
        """It is empty once somebody has read it."""
        return self.handle_invalid_for_json_schema(schema, "an iterator, which is read once")

    def function_before_schema(self, schema: Any) -> dict[str, Any]:
        """As that validator takes it."""
        return {}

    function_wrap_schema = function_before_schema
