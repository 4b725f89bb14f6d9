"""What would break a promise: every setting that one rests on, looked at, each with its remedy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from coordinator import limits


class Verdict(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    server: str
    what: str
    found: str
    verdict: Verdict
    remedy: str = ""


async def examine_postgres(url: str) -> list[Finding]:
    """The settings of a database, as the promises need them."""
    try:
        connection = await asyncpg.connect(url, timeout=limits.PARTICIPANT_CALL_S)
    except (OSError, TimeoutError, asyncpg.PostgresError) as failure:
        return [Finding("postgres", "connection", repr(failure), Verdict.BROKEN, "check the URL, and that it runs")]
    try:
        looks = (_slots, _fsync, _synchronous, _timeouts, _standby, _orphans)
        return [await look(connection) for look in looks]
    finally:
        await connection.close()


async def examine_kafka(bootstrap: str, options: Mapping[str, str] | None = None) -> list[Finding]:
    """The abilities and settings of a cluster, as the promises need them. *options*: as `KafkaSecurity` has them."""
    from coordinator.errors import CoordinatorError
    from participants.kafka.cluster import Cluster
    from participants.kafka.connection import Security

    security = Security(**(options or {}))  # type: ignore[arg-type]  # Names and values are the operator's own.
    cluster = Cluster(bootstrap, security)
    try:
        highest = await cluster.check()
    except CoordinatorError as failure:
        return [Finding("kafka", "transactions v2", str(failure), Verdict.BROKEN, "Apache Kafka 4.0 or later")]
    finally:
        cluster.close()
    findings = [Finding("kafka", "transactions v2 (KIP-890)", "served", Verdict.OK)]
    settings = await _broker_settings(bootstrap, security.options())
    if not settings:
        remedy = "grant DescribeConfigs on the cluster"
        return [*findings, Finding("kafka", "settings of the brokers", "cannot be read", Verdict.NOTE, remedy)]
    allowed = settings.get("transaction.two.phase.commit.enable") == "true"
    if highest >= 6 and allowed:
        findings.append(Finding("kafka", "prepared branches (KIP-939)", "served: recipe two-phase", Verdict.OK))
    else:
        remedy = "set transaction.two.phase.commit.enable and unstable.api.versions.enable for recipe two-phase"
        found = "not served: recipes commit-record and last-resource"
        findings.append(Finding("kafka", "prepared branches (KIP-939)", found, Verdict.NOTE, remedy))
    return findings + _durability(settings)


def worst(findings: Sequence[Finding]) -> int:
    """An exit code: 0 all is well, 1 there are notes, 2 a promise is broken."""
    verdicts = {finding.verdict for finding in findings}
    return 2 if Verdict.BROKEN in verdicts else 1 if Verdict.NOTE in verdicts else 0


async def _slots(connection: Any) -> Finding:
    slots = int(await connection.fetchval("SHOW max_prepared_transactions"))
    verdict = Verdict.OK if slots else Verdict.NOTE
    remedy = "" if slots else "set max_prepared_transactions to max_connections for two-phase and last-resource"
    return Finding("postgres", "max_prepared_transactions", str(slots), verdict, remedy)


async def _fsync(connection: Any) -> Finding:
    value = await connection.fetchval("SHOW fsync")
    verdict = Verdict.OK if value == "on" else Verdict.BROKEN
    return Finding("postgres", "fsync", value, verdict, "" if value == "on" else "set fsync = on")


async def _synchronous(connection: Any) -> Finding:
    value = await connection.fetchval("SHOW synchronous_commit")
    names = await connection.fetchval("SHOW synchronous_standby_names")
    standbys = int(await connection.fetchval("SELECT count(*) FROM pg_stat_replication"))
    found = f"{value}, {standbys} standbys, synchronous: {names or 'none'}"
    if value == "off":
        return Finding("postgres", "synchronous_commit", found, Verdict.BROKEN, "a decision must be durable: set it on")
    remedy = ""
    if value not in ("on", "remote_apply"):
        remedy = "set it on: a standby that has not flushed them may lose decisions and prepared branches at a failover"
    elif standbys and not names:
        remedy = "set synchronous_standby_names: a failover to these standbys may lose decisions and prepared branches"
    return Finding("postgres", "synchronous_commit", found, Verdict.NOTE if remedy else Verdict.OK, remedy)


async def _timeouts(connection: Any) -> Finding:
    name = "prepared_orphaned_transaction_timeout"
    value = await connection.fetchval("SELECT current_setting($1, true)", name)
    harmless = value is None or value == "0"
    remedy = "" if harmless else "set it to 0: a server that rolls prepared transactions back by itself breaks promises"
    found = "unknown to this server" if value is None else value
    return Finding("postgres", name, found, Verdict.OK if harmless else Verdict.BROKEN, remedy)


async def _standby(connection: Any) -> Finding:
    standby = await connection.fetchval("SELECT pg_is_in_recovery()")
    verdict = Verdict.BROKEN if standby else Verdict.OK
    return Finding(
        "postgres", "primary", "no" if standby else "yes", verdict, "use the primary's URL" if standby else ""
    )


async def _orphans(connection: Any) -> Finding:
    count = await connection.fetchval(
        "SELECT count(*) FROM pg_prepared_xacts WHERE prepared < now() - make_interval(secs => $1)",
        limits.PRESUME_ABORT_AFTER_S,
    )
    remedy = "they hold locks and keep vacuum from working: find out whose they are" if count else ""
    return Finding("postgres", "old prepared transactions", str(count), Verdict.NOTE if count else Verdict.OK, remedy)


async def _broker_settings(bootstrap: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Of one of the brokers; nothing where we may not see them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **options)
    try:
        await admin.start()
        brokers = (await admin.describe_cluster())["brokers"]
        resource = ConfigResource(ConfigResourceType.BROKER, str(brokers[0]["node_id"]))
        (answer,) = await admin.describe_configs([resource])
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}
    except (KafkaError, OSError, IndexError):
        return {}
    finally:
        await admin.close()


def _durability(settings: dict[str, str]) -> list[Finding]:
    findings = []
    for name, least in (
        ("transaction.state.log.replication.factor", 3),
        ("transaction.state.log.min.isr", 2),
        ("min.insync.replicas", 2),
    ):
        if name in settings:
            enough = int(settings[name]) >= least
            remedy = (
                "" if enough else f"at least {least} outside of development, or the loss of one disk loses outcomes"
            )
            findings.append(
                Finding("kafka", name, settings[name], Verdict.OK if enough else Verdict.NOTE, remedy),
            )
    if settings.get("unclean.leader.election.enable") == "true":
        remedy = "set it to false: an unclean leader forgets acknowledged messages"
        findings.append(Finding("kafka", "unclean.leader.election.enable", "true", Verdict.BROKEN, remedy))
    return findings
