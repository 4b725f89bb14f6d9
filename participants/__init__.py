"""Resources that take part in a transaction: what an application registers with its coordinator."""

from participants.kafka.connection import Security as KafkaSecurity
from participants.kafka.participant import Kafka
from participants.memory.broker import MemoryBroker
from participants.memory.database import MemoryDatabase
from participants.postgres.participant import Postgres

__all__ = ["Kafka", "KafkaSecurity", "MemoryBroker", "MemoryDatabase", "Postgres"]
