"""The body of a request: JSON that is the same in every process, since the request has one idempotency key in all.

A set of texts has another order in each process, and whoever takes over a saga would send its step another body.
"""

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel, PlainSerializer, RootModel, WrapSerializer
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json

_SERIALIZERS = (PlainSerializer, WrapSerializer)


def body_of(value: Any) -> bytes:
    """*value* as JSON, with what is in sets sorted (by its JSON)."""
    content = to_json(value)
    told = from_json(content)
    ordered = _ordered(value, told)
    return content if ordered == told else to_json(ordered)


def _ordered(value: Any, told: Any) -> Any:
    """*told*, which is *value* as JSON, in order; as it is where its type tells it in a way of its own."""
    if isinstance(value, RootModel):
        return _ordered(value.root, told)
    if isinstance(told, dict):
        parts = _parts(value, told)
        return {key: _ordered(parts[key], each) if key in parts else each for key, each in told.items()}
    if isinstance(value, Set) and isinstance(told, list) and len(value) == len(told):
        return sorted((_ordered(*pair) for pair in zip(value, told, strict=True)), key=to_json)
    if isinstance(told, list) and isinstance(value, list | tuple | deque) and len(value) == len(told):
        return [_ordered(*pair) for pair in zip(value, told, strict=True)]
    return told


def _parts(value: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    """What the values of *told* were, by its keys, where that is known and they are told in no way of their own."""
    kind = type(value)
    if isinstance(value, BaseModel):
        names: dict[str, str | None] = {name: field.serialization_alias for name, field in kind.model_fields.items()}
        names |= {name: field.alias for name, field in kind.model_computed_fields.items()}
        return (value.model_extra or {}) | _usual(value, names, kind.model_fields)
    if is_dataclass(value):
        of_pydantic = getattr(kind, "__pydantic_fields__", {})
        names = {field.name: None for field in fields(value)}
        names |= {name: field.serialization_alias for name, field in of_pydantic.items()}
        return _usual(value, names, of_pydantic)
    if isinstance(value, Mapping) and len(value) == len(told):
        return dict(zip(told, value.values(), strict=True))
    return {}


def _usual(value: Any, names: Mapping[str, str | None], of_pydantic: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The fields of *value* as JSON calls them, but those that have a serializer: it may have chosen an order."""
    own = {name for name, field in of_pydantic.items() if any(isinstance(m, _SERIALIZERS) for m in field.metadata)}
    if (written := getattr(type(value), "__pydantic_decorators__", None)) is not None:
        if written.model_serializers:
            return {}
        own.update(name for each in written.field_serializers.values() for name in each.info.fields)
    return (
        {} if "*" in own else {alias or name: getattr(value, name) for name, alias in names.items() if name not in own}
    )
