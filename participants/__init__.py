"""Resources that take part in a transaction: what an application registers with its coordinator."""

from participants.kafka.connection import Security as KafkaSecurity
from participants.kafka.participant import Kafka

__all__ = ["Kafka", "KafkaSecurity"]
