"""What a cluster is made of, before any broker runs."""

import uuid

import pytest

from coordinator.dev import kafka
from coordinator.dev.kafka import LocalKafka
from coordinator.errors import Misconfigured


def test_an_id_never_looks_like_an_option(monkeypatch):
    """One in 64 would begin with a dash, and Kafka's own tool would not take it."""
    draws = iter(
        [uuid.UUID(bytes=b"\xf8" + bytes(15)), uuid.UUID(bytes=b"\xfb" + bytes(15)), uuid.UUID(bytes=bytes(16))]
    )
    monkeypatch.setattr(kafka.uuid, "uuid4", lambda: next(draws))
    assert kafka._random_id() == "A" * 22


async def test_a_directory_keeps_its_number_of_brokers(tmp_path):
    """Another number would be another cluster: it is refused, not quietly ignored."""
    (tmp_path / "ports.json").write_text("[[1, 10, 11, 12]]")
    with pytest.raises(Misconfigured, match="a cluster of 1, not of 3"):
        await LocalKafka(directory=tmp_path, cache=tmp_path, brokers=3)._establish("java", tmp_path)


async def test_settings_are_those_of_today(tmp_path):
    """A directory that was made without KIP-939 has it when it is started with it, and extra settings win."""
    (tmp_path / "ports.json").write_text("[[1, 10, 11, 12]]")
    for two_phase in (False, True):
        settings = {"num.partitions": "5"}
        await LocalKafka(directory=tmp_path, cache=tmp_path, two_phase=two_phase, settings=settings)._establish(
            "java", tmp_path
        )
        lines = (tmp_path / "broker-1" / "server.properties").read_text().splitlines()
        assert ("transaction.two.phase.commit.enable=true" in lines) == two_phase
        assert "num.partitions=5" in lines
