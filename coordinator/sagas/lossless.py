"""Whether what is kept as JSON is what it was: a secret that hides itself is read again as asterisks.

What a type says of itself is found when a definition is built. What only a value shows (a serializer that rounds, a
mapping by numbers of which nobody said so) is found by comparing it with what is read again.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, TypeAdapter

_NO_SCHEMAS = frozenset({"metadata", "computed_fields", "serialization", "config", "default", "expected", "members"})
"""What stands in a schema and is none, and may hold anything."""
_LOOKED_AT = 10
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


def _parts(schema: Any, field: str = "it", name: Any = None) -> Iterator[tuple[str, bool, Any]]:
    """The parts of a type: in which field, whether it is left out, and the function that writes it, if one does."""
    if (what := _type(schema)) is not None:
        field = repr(schema.get("name", name)) if what.endswith("-field") else field
        yield field, bool(schema.get("serialization_exclude") or schema.get("init_only")), None
        if (function := (schema.get("serialization") or {}).get("function")) is not None:
            yield field, False, function
            return
    for inner, each in _inside(schema):
        yield from _parts(each, field, inner)


def names(schema: Any) -> Iterator[str]:
    """What a type calls its parts: its fields, their aliases, the tags and classes that are told apart."""
    if isinstance(schema, str | type):
        yield schema if isinstance(schema, str) else schema.__name__
    for name, each in _inside(schema):
        if isinstance(name, str):
            yield name
        yield from names(each)


def _inside(schema: Any) -> list[tuple[Any, Any]]:
    """What a schema, or a mapping or list of such, consists of, by its names; not the values that it quotes."""
    if isinstance(schema, Mapping):
        of_values = _NO_SCHEMAS if _type(schema) is not None else ()  # Else it is a field that has this name.
        return [(name, each) for name, each in schema.items() if name not in of_values]
    return list(enumerate(schema)) if isinstance(schema, list | tuple) else []


def _type(schema: Any) -> str | None:
    """The type of a schema; None of what is none, such as a mapping of fields (one of which may be named `type`)."""
    what = schema.get("type") if isinstance(schema, Mapping) else None
    return what if isinstance(what, str) else None


def changed(given: Any, again: Any, where: str = "it") -> str:
    """Which part of a value is another one when it is read *again*; empty where none is.

    What cannot be compared (its class does not say how) is taken for the same.
    """
    try:
        return "" if given == again else _different(given, again, where)
    except Exception:  # noqa: BLE001 - whatever a class of its user's own makes of it.
        return ""


def _different(given: Any, again: Any, where: str) -> str:
    """The part of what is not equal as a whole that is another one. (Its parts may be the same, in their own ways.)"""
    if _both(given, again, datetime) and given.tzinfo and again.tzinfo:
        # One of an hour that clocks show twice, or never, equals none of another zone.
        return "" if given.astimezone(UTC) == again.astimezone(UTC) else where
    if _both(given, again, Set):
        # Each is to be the same as some other. (That is each with each, for those that say no equal: a few tell.)
        alone = islice(given - again, _LOOKED_AT)
        same = len(given) == len(again) and all(any(not changed(one, other) for other in again) for one in alone)
        return "" if same else where
    if _both(given, again, list | tuple) or _both(given, again, deque):
        parts = [(mine, other, f"{where}[{at}]") for at, (mine, other) in enumerate(zip(given, again, strict=False))]
        parts.append((len(given), len(again), where))
    elif _both(given, again, Mapping):
        parts = [(each, again[name], repr(name)) for name, each in given.items() if name in again]
        parts.append((given.keys(), again.keys(), where))
    elif not isinstance(given, type(again)):
        return where
    elif (mine := _fields(given)) is not None:
        theirs = _fields(again) or {}
        parts = [(each, theirs.get(name, ...), repr(name)) for name, each in mine.items()]
    else:
        incomparable = type(given).__eq__ is _BY_IDENTITY or (given != given and again != again)  # NaN
        return "" if incomparable else where
    return next((found for part in parts if (found := changed(*part))), "")


def _both(one: Any, other: Any, kind: Any) -> bool:
    return isinstance(one, kind) and isinstance(other, kind)


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of what has some; None of anything else. (What is private is not kept, and nobody was told so.)"""
    if isinstance(value, BaseModel):
        names = [*type(value).model_fields, *(value.model_extra or ())]
    elif is_dataclass(value):
        names = [each.name for each in fields(value)]
    else:
        return None
    return {name: getattr(value, name, None) for name in names}
