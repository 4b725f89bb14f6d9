"""A Kafka branch as plain data: what ends its transaction, or reads its outcome back, from any process."""

from dataclasses import dataclass

from coordinator.protocol.model import Evidence
from participants.kafka.codec import Producer


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaBranch:
    """The transaction's own (id, producer id, epoch), and where its first acknowledged record stands."""

    transactional_id: str
    producer: Producer
    topic: str
    partition: int
    offset: int

    def evidence(self) -> Evidence:
        """As the journal keeps it."""
        return {
            "transactional_id": self.transactional_id,
            "producer_id": self.producer.producer_id,
            "epoch": self.producer.epoch,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
        }

    @classmethod
    def of(cls, evidence: Evidence) -> "KafkaBranch | None":
        """The branch that *evidence* describes; None where it never got as far as a vote."""
        if "transactional_id" not in evidence:
            return None
        return cls(
            transactional_id=str(evidence["transactional_id"]),
            producer=Producer(int(evidence["producer_id"] or 0), int(evidence["epoch"] or 0)),
            topic=str(evidence["topic"]),
            partition=int(evidence["partition"] or 0),
            offset=int(evidence["offset"] or 0),
        )
