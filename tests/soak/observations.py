"""Reads what is there when all is over: rows, what a `read_committed` consumer sees, histories, leftovers."""

import asyncio
import contextlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from coordinator.faults.history import read as read_history
from participants import KafkaSecurity
from participants.kafka.cluster import Cluster
from participants.kafka.codec_cluster import Fetch, decode_fetch
from tests.soak.evidence import ABORTED, COMMITTED, UNKNOWN, Row, Sighting, Told
from tests.soak.worker import TOPIC

_ANSWERS = {"ok": COMMITTED, "fail": ABORTED, "info": UNKNOWN}
_BATCH = struct.Struct(">qiibIhiqqqhii")  # As far as the number of records; see Kafka's record batch, magic 2.
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_FETCH_BYTES = 4 * 1024 * 1024
WATCH_EVERY_S = 1.0
RECENT = "SELECT gid, standing FROM unanimity.decisions WHERE created_at > now() - interval '30 seconds'"
LEFTOVERS = {
    "unfinished record": "SELECT concat_ws(' ', gid, recipe, standing) FROM unanimity.decisions WHERE done_at IS NULL",
    "prepared transaction": "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()",
    "outbox row": "SELECT concat_ws(' ', message_id, CASE WHEN waiting THEN 'waiting' END, last_error) "
    "FROM unanimity.outbox",
    "dead owner": "SELECT owner FROM unanimity.owners WHERE lease_until < now()",
}


async def rows(connection: "asyncpg.Connection[Any]") -> list[Row]:
    """All business rows."""
    return [Row(**row) for row in await connection.fetch("SELECT gid, key, sequence, messages FROM soak_rows")]


async def decided(connection: "asyncpg.Connection[Any]") -> dict[str, str]:
    """What stands in the journal."""
    return {
        row["gid"]: row["standing"] for row in await connection.fetch("SELECT gid, standing FROM unanimity.decisions")
    }


async def watch(database: str, stood: dict[str, list[str]]) -> None:
    """Note in *stood* what stands in the journal, again and again, until cancelled; it may be away at times."""
    while True:
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(database, timeout=5, command_timeout=5)
            try:
                for gid, standing in await connection.fetch(RECENT):
                    if stood.setdefault(gid, [standing])[-1] != standing:
                        stood[gid].append(standing)
            finally:
                connection.terminate()
        await asyncio.sleep(WATCH_EVERY_S)


async def alerts(connection: "asyncpg.Connection[Any]") -> list[str]:
    """Whom an operator was called for, and why."""
    return [
        row[0] for row in await connection.fetch("SELECT gid || ' ' || kind || ': ' || detail FROM unanimity.alerts")
    ]


async def leftovers(connection: "asyncpg.Connection[Any]", bootstrap: str) -> dict[str, list[str]]:
    """What is not finished yet, by kind, with what identifies it."""
    found = {kind: [row[0] for row in await connection.fetch(query)] for kind, query in LEFTOVERS.items()}
    return found | {"open Kafka transaction": await open_partitions(bootstrap)}


async def open_partitions(bootstrap: str) -> list[str]:
    """Partitions in which an open transaction keeps readers waiting: the last stable offset is below the end."""
    cluster = Cluster(bootstrap, KafkaSecurity())
    try:
        behind = []
        for partition, leader in (await cluster.partitions(TOPIC)).items():
            fetched = await cluster.ask(leader, Fetch(TOPIC, partition, 0, bytes_max=1), decode_fetch)
            if fetched.last_stable_offset != fetched.high_watermark:
                behind.append(f"{TOPIC}-{partition}: {fetched.last_stable_offset} of {fetched.high_watermark}")
        return behind
    finally:
        cluster.close()


async def sightings(bootstrap: str) -> list[Sighting]:
    """All messages that a `read_committed` consumer sees, and how each was delivered."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    cluster = Cluster(bootstrap, KafkaSecurity())
    try:
        await consumer._client.force_metadata_update()
        partitions = sorted(await cluster.partitions(TOPIC))
        found = []
        for partition in partitions:
            messages = await _consume(consumer, partition)
            batches = await _batches(cluster, partition)
            found += [_sighting(message, *batches[message.offset]) for message in messages]
        return found
    finally:
        await consumer.stop()
        cluster.close()


def _sighting(message: Any, relayed: bool, producer: int) -> Sighting:
    body = json.loads(message.value)
    return Sighting(
        message_id=dict(message.headers)["message-id"].decode(),
        gid=body["gid"],
        key=body["key"],
        sequence=body["sequence"],
        partition=message.partition,
        offset=message.offset,
        at_s=message.timestamp / 1000,
        relayed=relayed,
        producer=producer,
    )


async def _consume(consumer: AIOKafkaConsumer, partition: int) -> list[Any]:
    """Everything in one partition, up to its end as it is now."""
    where = TopicPartition(TOPIC, partition)
    consumer.assign([where])
    end = (await consumer.end_offsets([where]))[where]
    await consumer.seek_to_beginning(where)
    found: list[Any] = []
    async with asyncio.timeout(60):
        while await consumer.position(where) < end:
            found += (await consumer.getmany(where, timeout_ms=500)).get(where, [])
    return found


async def _batches(cluster: Cluster, partition: int) -> dict[int, tuple[bool, int]]:
    """For each offset of a record: whether it was written outside of any transaction, and by which producer."""
    written: dict[int, tuple[bool, int]] = {}
    position = 0
    while True:
        leader = (await cluster.partitions(TOPIC))[partition]
        fetched = await cluster.ask(leader, Fetch(TOPIC, partition, position, _FETCH_BYTES), decode_fetch)
        if not fetched.records:
            return written
        for first, last, attributes, producer in _headers(fetched.records):
            position = last + 1
            if not attributes & _CONTROL:
                written |= dict.fromkeys(range(first, last + 1), (not attributes & _TRANSACTIONAL, producer))


def _headers(records: bytes) -> Iterable[tuple[int, int, int, int]]:
    """(first offset, last offset, attributes, producer id) of each whole batch."""
    at = 0
    while at + _BATCH.size <= len(records):
        first, length, _, _, _, attributes, delta, _, _, producer, *_ = _BATCH.unpack_from(records, at)
        at += 12 + length
        if at <= len(records):
            yield first, first + delta, attributes, producer


def told(histories: Sequence[Path]) -> list[Told]:
    """Every transaction that was begun, with what its caller was told; NAME-INCARNATION.jsonl says by which worker."""
    found: dict[str, Told] = {}
    for path in histories:
        for line in read_history(path):
            gid, at_s, phase = line["gid"], line["t"], line["phase"]
            if phase == "invoke":
                recipe, policy = line["value"]["name"].split()
                worker = path.name.partition("-")[0]
                found[gid] = Told(gid=gid, worker=worker, recipe=recipe, policy=policy, began_s=at_s)
            else:
                found[gid] = replace(found[gid], answer=_ANSWERS[phase], ended_s=at_s)
    return list(found.values())
