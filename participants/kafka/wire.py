"""Kafka's primitive types as bytes, for the flexible versions of its requests (KIP-482): a writer and a reader.

Sans-IO: bytes in, values out. Every malformed input raises `MalformedResponse`; nothing is ever read past the end.
"""

import struct
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from coordinator.errors import CoordinatorError

Item = TypeVar("Item")

_INT8, _INT16, _INT32, _INT64 = (struct.Struct(f">{code}") for code in "bhiq")
_VARINT_BITS_MAX = 35


class MalformedResponse(CoordinatorError):
    """A broker's answer could not be decoded: it is not the version that was asked for, or it was cut off."""


class Writer:
    """Appends values to a buffer."""

    __slots__ = ("buffer",)

    def __init__(self) -> None:
        self.buffer = bytearray()

    def int8(self, value: int) -> "Writer":
        """One byte."""
        self.buffer += _INT8.pack(value)
        return self

    def int16(self, value: int) -> "Writer":
        """Two bytes."""
        self.buffer += _INT16.pack(value)
        return self

    def int32(self, value: int) -> "Writer":
        """Four bytes."""
        self.buffer += _INT32.pack(value)
        return self

    def int64(self, value: int) -> "Writer":
        """Eight bytes."""
        self.buffer += _INT64.pack(value)
        return self

    def boolean(self, value: bool) -> "Writer":
        """One byte, 0 or 1."""
        return self.int8(int(value))

    def varint(self, value: int) -> "Writer":
        """An unsigned variable-length integer."""
        while value > 0x7F:
            self.buffer.append((value & 0x7F) | 0x80)
            value >>= 7
        self.buffer.append(value)
        return self

    def string(self, value: str | None) -> "Writer":
        """A compact nullable string."""
        return self.data(None if value is None else value.encode())

    def data(self, value: bytes | bytearray | None) -> "Writer":
        """Compact nullable bytes."""
        if value is None:
            return self.varint(0)
        self.varint(len(value) + 1)
        self.buffer += value
        return self

    def array(self, items: Iterable[Item], write: Callable[["Writer", Item], object]) -> "Writer":
        """A compact array."""
        listed = list(items)
        self.varint(len(listed) + 1)
        for item in listed:
            write(self, item)
        return self

    def no_tags(self) -> "Writer":
        """An empty set of tagged fields."""
        self.buffer.append(0)
        return self


class Reader:
    """Reads values from the front of a buffer."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._at

    def int8(self) -> int:
        """One byte."""
        return self._fixed(_INT8)

    def int16(self) -> int:
        """Two bytes."""
        return self._fixed(_INT16)

    def int32(self) -> int:
        """Four bytes."""
        return self._fixed(_INT32)

    def int64(self) -> int:
        """Eight bytes."""
        return self._fixed(_INT64)

    def boolean(self) -> bool:
        """One byte."""
        return self.int8() != 0

    def varint(self) -> int:
        """An unsigned variable-length integer of at most 35 bits."""
        if self._at < len(self._data) and (first := self._data[self._at]) < 0x80:
            self._at += 1
            return first  # Nearly every length is below 128.
        value = 0
        for shift in range(0, _VARINT_BITS_MAX, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise MalformedResponse("a length of more than 35 bits")

    def string(self) -> str | None:
        """A compact nullable string."""
        data = self.data()
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as invalid:
            raise MalformedResponse("a string that is not UTF-8") from invalid

    def text(self) -> str:
        """A compact string that may not be null."""
        return self.string() or ""

    def data(self) -> bytes | None:
        """Compact nullable bytes."""
        length = self.varint()
        return None if length == 0 else self.take(length - 1)

    def array(self, read: Callable[["Reader"], Item]) -> list[Item]:
        """A compact array; null is empty."""
        count = self.varint() - 1
        if count > len(self._data) - self._at:
            raise MalformedResponse(
                f"an array of {count} items in the {len(self._data) - self._at} bytes that are left"
            )
        return [read(self) for _ in range(count)]

    def tags(self) -> None:
        """Tagged fields, all of which are optional by definition: skipped."""
        for _ in range(self.varint()):
            self.varint()
            self.take(self.varint())

    def take(self, length: int) -> bytes:
        """The next *length* bytes."""
        end = self._at + length
        if end > len(self._data):
            raise MalformedResponse(f"{length} bytes were announced, and {len(self._data) - self._at} are left")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def fixed(self, layout: struct.Struct) -> tuple[Any, ...]:
        """All values of a fixed layout at once."""
        return layout.unpack(self.take(layout.size))

    def _fixed(self, layout: struct.Struct) -> int:
        end = self._at + layout.size
        if end > len(self._data):
            raise MalformedResponse(f"{layout.size} bytes were expected, and {len(self._data) - self._at} are left")
        (value,) = layout.unpack_from(self._data, self._at)
        self._at = end
        return int(value)
