"""Answers are decoded as Kafka's message definitions lay them out; a cut-off one is never taken for a shorter one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from participants.kafka import codec, codec_cluster
from participants.kafka.codes import Code
from participants.kafka.wire import MalformedResponse, Reader, Writer

NOBODY = codec.Producer(-1, -1)


def _one(write) -> Writer:
    """An array of one item, which *write* writes."""
    return Writer().array([None], lambda writer, _: write(writer))


def _produced() -> bytes:
    def partition(writer: Writer) -> None:
        writer.int32(3).int16(0).int64(17).int64(-1).int64(0)
        writer.array([(0, "why")], lambda w, e: w.int32(e[0]).string(e[1]).no_tags()).string(None).no_tags()

    return bytes(
        _one(lambda w: w.string("posts").array([None], lambda v, _: partition(v)).no_tags()).int32(0).no_tags().buffer
    )


def _metadata() -> bytes:
    writer = Writer().int32(0).array([None], lambda w, _: w.int32(1).string("host").int32(9092).string(None).no_tags())
    writer.string("cluster").int32(1)

    def partition(w: Writer) -> None:
        w.int16(0).int32(0).int32(1).int32(5)
        for _ in range(3):
            w.array([1], Writer.int32)
        w.no_tags()

    def topic(w: Writer) -> None:
        w.int16(0).string("posts").int64(1).int64(2).boolean(False)
        w.array([None], lambda v, _: partition(v)).int32(0).no_tags()

    return bytes(writer.array([None], lambda w, _: topic(w)).no_tags().buffer)


def _fetched() -> bytes:
    def partition(w: Writer) -> None:
        w.int32(0).int16(0).int64(9).int64(8).int64(2)
        w.array([(5, 6)], lambda v, pair: v.int64(pair[0]).int64(pair[1]).no_tags())
        w.int32(-1).data(b"records").no_tags()

    topics = _one(lambda w: w.string("posts").array([None], lambda v, _: partition(v)).no_tags())
    return bytes(Writer().int32(0).int16(0).int32(0).buffer + topics.no_tags().buffer)


def _described() -> bytes:
    def state(w: Writer) -> None:
        w.int16(0).string("id").string("Ongoing").int32(60000).int64(1).int64(11).int16(4)
        w.array(["posts"], lambda v, name: v.string(name).array([0], Writer.int32).no_tags()).no_tags()

    return bytes(Writer().int32(0).array([None], lambda w, _: state(w)).no_tags().buffer)


def _listed() -> bytes:
    states = Writer().int32(0).int16(0).array([], Writer.string)
    states.array([("id", 11, "Ongoing")], lambda w, s: w.string(s[0]).int64(s[1]).string(s[2]).no_tags())
    return bytes(states.no_tags().buffer)


def _coordinator() -> bytes:
    writer = Writer().int32(0)
    writer.array([None], lambda w, _: w.string("id").int32(1).string("host").int32(9092).int16(0).string("").no_tags())
    return bytes(writer.no_tags().buffer)


ANSWERS = {
    "Produce": (codec.decode_produce, _produced(), [codec.Produced("posts", 3, 0, 17, "")]),
    "EndTxn": (
        codec.decode_producer,
        bytes(Writer().int32(0).int16(0).int64(11).int16(5).no_tags().buffer),
        (0, codec.Producer(11, 5)),
    ),
    "DescribeTransactions": (
        codec.decode_describe_transactions,
        _described(),
        codec.TransactionState(0, "Ongoing", 60000, codec.Producer(11, 4), started_ms=1),
    ),
    "ListTransactions": (codec.decode_list_transactions, _listed(), (0, {"id": "Ongoing"})),
    "ApiVersions": (
        codec_cluster.decode_api_versions,
        bytes(
            Writer().int16(0).array([(26, 0, 5)], lambda w, v: w.int16(v[0]).int16(v[1]).int16(v[2]).no_tags()).buffer
        ),
        {26: 5},
    ),
    "Metadata": (
        codec_cluster.decode_metadata,
        _metadata(),
        codec_cluster.ClusterMetadata({1: ("host", 9092)}, {"posts": codec_cluster.TopicMetadata(0, {0: 1})}),
    ),
    "FindCoordinator": (codec_cluster.decode_find_coordinator, _coordinator(), (0, ("host", 9092))),
    "Fetch": (
        codec_cluster.decode_fetch,
        _fetched(),
        codec_cluster.Fetched(0, 9, 8, 2, frozenset({(5, 6)}), b"records"),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_decoded_field_by_field(name):
    """Every field that means something to us, by hand against the layout."""
    decode, data, expected = ANSWERS[name]
    assert decode(data) == expected


# What follows the last field that a decoder needs is not read, so a cut there is none.
_UNREAD_TAIL = {"Produce": 5, "EndTxn": 1, "FindCoordinator": 1, "Metadata": 1, "Fetch": 1}
_UNREAD_TAIL |= {"DescribeTransactions": 1, "ListTransactions": 1}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_cut_off_answer_is_an_error_wherever_it_was_cut(name):
    """At no length is the front of an answer an answer."""
    decode, data, _ = ANSWERS[name]
    for length in range(len(data) - _UNREAD_TAIL.get(name, 0)):
        if name == "Fetch" and length < 10:
            continue  # Its error code comes first, and where there is one the rest means nothing.
        with pytest.raises(MalformedResponse):
            decode(data[:length])


@given(st.binary(max_size=300))
def test_hostile_answers_end_in_a_value_or_in_the_one_error(data):
    """No decoder hangs, allocates what was only announced, or raises anything else."""
    for decode, _, _ in ANSWERS.values():
        try:
            decode(data)
        except MalformedResponse:
            continue


@given(st.text(min_size=1, max_size=50), st.integers(0, 2**31 - 1), st.booleans())
def test_initialising_claims_no_earlier_producer(name, timeout_ms, two_phase):
    """The request carries the id and the timeout, and keeps nothing that was prepared (KIP-939's second flag)."""
    request = codec.InitProducerId(name, timeout_ms, two_phase)
    reader = Reader(request.body())
    assert (reader.text(), reader.int32(), codec.Producer(reader.int64(), reader.int16())) == (name, timeout_ms, NOBODY)
    if two_phase:
        assert (reader.boolean(), reader.boolean()) == (True, False)
    reader.tags()
    assert reader.position == len(request.body())


@given(st.dictionaries(st.tuples(st.text(max_size=20), st.integers(0, 100)), st.binary(max_size=50), max_size=10))
def test_producing_carries_every_batch_once_and_waits_for_all_replicas(batches):
    """Batches are grouped by topic, none is lost, and acks is all."""
    reader = Reader(codec.Produce("id", 5, batches).body())
    assert (reader.text(), reader.int16(), reader.int32()) == ("id", -1, 5)
    found = {}

    def topic(item: Reader) -> str:
        name = item.text()

        def partition(entry: Reader) -> None:
            number = entry.int32()
            found[(name, number)] = entry.data()
            entry.tags()

        item.array(partition)
        item.tags()
        return name

    names = reader.array(topic)
    assert found == batches
    assert len(names) == len(set(names))


def test_no_answer_about_an_id_means_that_the_id_is_unknown():
    """An empty list of states, or of coordinators, is an error code and never a state."""
    nothing = bytes(Writer().int32(0).array([], Writer.string).no_tags().buffer)
    assert codec.decode_describe_transactions(nothing).code == Code.TRANSACTIONAL_ID_NOT_FOUND
    assert codec_cluster.decode_find_coordinator(nothing)[0] == Code.COORDINATOR_NOT_AVAILABLE
