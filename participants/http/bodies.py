"""The body of a request: JSON that is the same in every process, since the request has one idempotency key in all.

A set of texts has another order in each process, and whoever takes over a saga would send its step another body.
"""

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic_core import from_json, to_json


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
    if isinstance(value, Set):
        if told != from_json(to_json(value)):
            return told  # Its type has chosen an order.
        return sorted((_ordered(*pair) for pair in zip(value, told, strict=True)), key=to_json)
    if isinstance(told, list) and isinstance(value, list | tuple | deque) and len(value) == len(told):
        return [_ordered(*pair) for pair in zip(value, told, strict=True)]
    return told


def _parts(value: Any, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the values of *told* were, by its keys, where that is known."""
    if isinstance(value, BaseModel):
        names = {name: field.serialization_alias for name, field in type(value).model_fields.items()}
        names |= {name: field.alias for name, field in type(value).model_computed_fields.items()}
        return (value.model_extra or {}) | {alias or name: getattr(value, name) for name, alias in names.items()}
    if is_dataclass(value):
        of_pydantic = getattr(type(value), "__pydantic_fields__", {})
        names = {field.name: None for field in fields(value)}
        names |= {name: field.serialization_alias for name, field in of_pydantic.items()}
        return {alias or name: getattr(value, name) for name, alias in names.items()}
    if isinstance(value, Mapping) and len(value) == len(told):
        return dict(zip(told, value.values(), strict=True))
    return {}
