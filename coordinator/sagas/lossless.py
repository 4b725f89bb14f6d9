"""Whether what is kept as JSON is what it was: a secret that hides itself is read again as asterisks.

What a type says of itself is found when a definition is built. What only a value shows (a serializer that rounds, a
mapping by numbers of which nobody said so) is found by comparing it with what is read again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, TypeAdapter

_BESIDE_IT = ("metadata", "computed_fields", "serialization")
_MISSING = object()
_BY_IDENTITY: Any = object.__eq__


def unkept(kind: TypeAdapter[Any]) -> str:
    """What of a type is never in its JSON, for people; empty where all is.

    What a serializer of its user's own makes of it is not known here.
    """
    hidden = _hidden()
    for field, left_out, serializer in _parts(kind.core_schema):
        if left_out:
            return f"{field} is left out of it"
        if serializer in hidden:
            return f"{field} is a secret, which hides itself"
    return ""


@cache
def _hidden() -> frozenset[Any]:
    """What writes secrets, as asterisks."""
    secrets: tuple[Any, ...] = (SecretStr, SecretBytes, Secret[str])
    return frozenset(how for each in secrets for _, _, how in _parts(TypeAdapter(each).core_schema) if how)


def _parts(schema: Any, field: str = "it") -> Iterator[tuple[str, bool, Any]]:
    """The parts of a type: in which field, whether it is left out, and the function that writes it, if one does."""
    if isinstance(schema, Mapping):
        yield field, bool(schema.get("serialization_exclude") or schema.get("init_only")), None
        own = schema.get("serialization")
        if isinstance(own, Mapping) and (function := own.get("function")) is not None:
            yield field, False, function
            return
        for name, each in schema.items():
            if name not in _BESIDE_IT:
                of_field = isinstance(each, Mapping) and str(each.get("type", "")).endswith("-field")
                yield from _parts(each, repr(name) if of_field else field)
    elif isinstance(schema, list | tuple):
        for each in schema:
            named = isinstance(each, Mapping) and str(each.get("type", "")).endswith("-field")
            yield from _parts(each, repr(each["name"]) if named else field)


def changed(given: Any, again: Any, where: str = "it") -> str:
    """Which part of a value is another one when it is read *again*; empty where none is.

    What cannot be compared (its class does not say how) is taken for the same.
    """
    try:
        if given == again:
            return ""
    except Exception:  # noqa: BLE001 - whatever a class of its user's own makes of it.
        return ""
    if isinstance(given, list | tuple) and isinstance(again, list | tuple) and len(given) == len(again):
        parts = [(mine, other, f"{where}[{at}]") for at, (mine, other) in enumerate(zip(given, again, strict=True))]
    elif isinstance(given, dict) and isinstance(again, dict) and given.keys() == again.keys():
        parts = [(each, again[name], repr(name)) for name, each in given.items()]
    elif (names := _fields(given)) is not None:
        parts = [(getattr(given, name, None), getattr(again, name, _MISSING), repr(name)) for name in names]
    else:
        incomparable = type(given).__eq__ is _BY_IDENTITY or (given != given and again != again)  # NaN
        return "" if incomparable else where
    return next((found for part in parts if (found := changed(*part))), "")


def _fields(value: Any) -> list[str] | None:
    """The fields of what has some; None of anything else. (What is private is not kept, and nobody was told so.)"""
    if isinstance(value, BaseModel):
        return [*type(value).model_fields, *(value.model_extra or ())]
    return [each.name for each in fields(value)] if is_dataclass(value) else None
