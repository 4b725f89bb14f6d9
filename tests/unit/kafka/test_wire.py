"""The wire's primitives: what is written is read back, and bytes that are not ours raise one error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from participants.kafka.wire import MalformedResponse, Reader, Writer

_LENGTHS = st.integers(0, 2**31 - 1)
_STRINGS = st.none() | st.text(max_size=300)


def _read(writer: Writer) -> Reader:
    return Reader(bytes(writer.buffer))


@given(
    st.integers(-(2**7), 2**7 - 1),
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    _LENGTHS,
)
def test_numbers_are_read_as_they_were_written(int8, int16, int32, int64, boolean, length):
    """Each number comes back, and nothing is left over."""
    writer = Writer().int8(int8).int16(int16).int32(int32).int64(int64).boolean(boolean).varint(length)
    reader = _read(writer)
    read = reader.int8(), reader.int16(), reader.int32(), reader.int64(), reader.boolean(), reader.varint()
    assert read == (int8, int16, int32, int64, boolean, length)
    assert reader.position == len(writer.buffer)


@given(_STRINGS, st.none() | st.binary(max_size=300), st.lists(_STRINGS, max_size=20))
def test_strings_bytes_and_arrays_are_read_as_they_were_written(string, data, items):
    """Null, empty and full ones alike; the bytes in between stay apart."""
    reader = _read(Writer().string(string).data(data).array(items, Writer.string).int8(7))
    assert (reader.string(), reader.data(), reader.array(Reader.string), reader.int8()) == (string, data, items, 7)


@given(st.lists(st.tuples(_LENGTHS, st.binary(max_size=50)), max_size=5))
def test_tagged_fields_of_a_newer_broker_are_skipped(fields):
    """Whatever their numbers and sizes, what follows is read where it is."""
    writer = Writer().varint(len(fields))
    for number, data in fields:
        writer.varint(number).varint(len(data)).buffer.extend(data)
    reader = _read(writer.int32(42))
    reader.tags()
    assert reader.int32() == 42


@given(st.binary(max_size=200))
def test_hostile_bytes_end_in_a_value_or_in_the_one_error(data):
    """No announced length is believed beyond what is there, and no other exception escapes."""
    for read in (Reader.string, Reader.data, Reader.tags, Reader.varint, lambda r: r.array(Reader.string)):
        reader = Reader(data)
        try:
            read(reader)
        except MalformedResponse:
            continue
        assert reader.position <= len(data)


def test_a_length_that_never_ends_is_refused():
    """A varint of continuation bytes alone is no length."""
    with pytest.raises(MalformedResponse, match="35 bits"):
        Reader(b"\xff" * 100).varint()
