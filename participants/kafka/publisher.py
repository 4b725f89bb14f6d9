"""Kafka as a relay sees it: rows go in, in order, and a future says when each is safe there."""

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from coordinator.errors import Refused, Unavailable
from coordinator.ports import OutboxRow

logger = logging.getLogger(__name__)

_REFUSED = (InvalidTopicError, MessageSizeTooLargeError, RecordListTooLargeError, TopicAuthorizationFailedError)
_KNOWN_WITHIN_S = 2.0
_BATCH_BYTES = 256 * 1024


class KafkaPublisher:
    """aiokafka's idempotent producer: order per partition, and no duplicate from its own retries."""

    def __init__(
        self, bootstrap: str, options: Mapping[str, Any] | None = None, *, acknowledged_within_s: float = 30.0
    ) -> None:
        self._options = {
            "bootstrap_servers": bootstrap,
            "enable_idempotence": True,
            "max_batch_size": _BATCH_BYTES,
            "request_timeout_ms": int(acknowledged_within_s * 1000),
            **(options or {}),
        }
        self._producer: AIOKafkaProducer | None = None
        self._known: set[str] = set()

    async def send(self, row: OutboxRow) -> "asyncio.Future[Any]":
        """Hand a row to the producer. See `ports.Publisher`."""
        producer = await self._started()
        topic = row["topic"]
        if topic not in self._known:
            await self._know(producer, topic)
        headers = [("message-id", row["message_id"].encode())]
        if row["headers"] != "[]":
            headers = [(name, base64.b64decode(value)) for name, value in json.loads(row["headers"])] + headers
        try:
            future: asyncio.Future[Any] = await producer.send(
                topic, row["value"], key=row["key"], partition=row["partition"], headers=headers
            )
        except _REFUSED as failure:
            raise Refused(str(failure)) from failure
        except AssertionError as failure:
            raise Refused(f"topic {topic!r} has no partition {row['partition']}") from failure
        except KafkaError as failure:
            raise Unavailable(f"Kafka does not take messages: {failure}") from failure
        return future

    def refused(self, failure: BaseException) -> bool:
        """Whether it was about the message, and not about the broker."""
        return isinstance(failure, _REFUSED)

    async def close(self) -> None:
        """Stop the producer. A broker that is away is not waited for."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                await asyncio.wait_for(producer.stop(), timeout=_KNOWN_WITHIN_S)
            except (TimeoutError, KafkaError) as failure:
                logger.warning("the relay's producer did not stop cleanly: %r", failure)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(**self._options)
            try:
                await producer.start()
            except (KafkaError, OSError) as failure:
                await producer.stop()
                raise Unavailable(f"Kafka does not answer: {failure}") from failure
            self._producer = producer
        return self._producer

    async def _know(self, producer: AIOKafkaProducer, topic: str) -> None:
        """Find the topic, quickly: an unknown one must not hold up the others."""
        try:
            await asyncio.wait_for(producer.partitions_for(topic), timeout=_KNOWN_WITHIN_S)
        except TimeoutError:
            if await producer.client.force_metadata_update():
                raise Refused(f"there is no topic {topic!r}") from None
            raise Unavailable("Kafka does not answer") from None
        except _REFUSED as failure:
            raise Refused(f"topic {topic!r}: {failure!r}") from failure
        except KafkaError as failure:
            raise Refused(f"there is no topic {topic!r}: {failure!r}") from failure
        self._known.add(topic)
