"""What sagas keep, as JSON: inputs, outputs, and what signals bring.

They are written under the names of their fields, and read by these or by their aliases: a model that others know by
aliases is read again as it was written. (These are the adapter's own two methods: those around them take longer.)
"""

from typing import Any

from pydantic import TypeAdapter


def write(kind: TypeAdapter[Any], value: Any) -> bytes:
    """*value* as JSON, without what its type computes. Raises `ValueError` where it has none."""
    return kind.serializer.to_json(value, by_alias=False, round_trip=True, warnings=False)


def read(kind: TypeAdapter[Any], text: str | bytes) -> Any:
    """The value that JSON stands for. Raises `ValueError` where it is of another type."""
    return kind.validator.validate_json(text, by_alias=True, by_name=True)
