"""What would break a promise: every setting that one rests on, looked at, each with its remedy."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from coordinator import limits
from coordinator.schema import Version, versions

_POSTGRES_MIN = 14
_CONNECTIONS_MIN = 64
_CLOCKS_APART_S = 2.0


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
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as failure:
        return [Finding("postgres", "connection", repr(failure), Verdict.BROKEN, "check the URL, and that it runs")]
    try:
        looks = (
            *(_version, _pooler, _standby, _slots, _connections, _fsync, _full_page_writes, _synchronous, _timeouts),
            *(_session_timeouts, _history, _clock, _orphans),
        )
        findings = [await look(connection) for look in looks]
        present = [version for version in await versions(connection) if version.present]
        return findings + [_tables(version) for version in present] + await _prefix(connection)
    finally:
        await connection.close()


async def examine_kafka(bootstrap: str, options: Mapping[str, str] | None = None) -> list[Finding]:
    """The abilities and settings of a cluster, as the promises need them. *options*: as `KafkaSecurity` has them."""
    from coordinator.errors import CoordinatorError
    from participants.kafka.cluster import Cluster
    from participants.kafka.connection import Security

    try:
        security = Security(**(options or {}))  # type: ignore[arg-type]  # Names and values are the operator's own.
        cluster = Cluster(bootstrap, security)
    except (CoordinatorError, TypeError) as failure:
        return [Finding("kafka", "connection", str(failure), Verdict.BROKEN, "correct the address or its options")]
    try:
        highest = await cluster.check()
    except CoordinatorError as failure:
        return [Finding("kafka", "transactions v2", str(failure), Verdict.BROKEN, "Apache Kafka 4.0 or later")]
    finally:
        cluster.close()
    findings = [Finding("kafka", "transactions v2 (KIP-890)", "served", Verdict.OK)]
    brokers = await _broker_settings(bootstrap, security.options())
    if not brokers:
        remedy = "grant DescribeConfigs on the cluster"
        return [*findings, Finding("kafka", "settings of the brokers", "cannot be read", Verdict.NOTE, remedy)]
    allowed = all(settings.get("transaction.two.phase.commit.enable") == "true" for settings in brokers)
    if highest >= 6 and allowed:
        findings.append(Finding("kafka", "prepared branches (KIP-939)", "served: recipe two-phase", Verdict.OK))
    else:
        remedy = "set transaction.two.phase.commit.enable and unstable.api.versions.enable for recipe two-phase"
        found = "not served: recipes commit-record and last-resource"
        findings.append(Finding("kafka", "prepared branches (KIP-939)", found, Verdict.NOTE, remedy))
    # Brokers that agree are one finding; where they differ, each way is.
    return [*findings, *dict.fromkeys(finding for settings in brokers for finding in _durability(settings))]


def worst(findings: Sequence[Finding]) -> int:
    """An exit code: 0 all is well, 1 there are notes, 2 a promise is broken."""
    verdicts = {finding.verdict for finding in findings}
    return 2 if Verdict.BROKEN in verdicts else 1 if Verdict.NOTE in verdicts else 0


def _finding(what: str, found: object, remedy: str = "", verdict: Verdict = Verdict.NOTE) -> Finding:
    """Of a database; *verdict* is what it comes to where there is something to remedy."""
    return Finding("postgres", what, str(found), verdict if remedy else Verdict.OK, remedy)


async def _version(connection: Any) -> Finding:
    version = connection.get_server_version()
    old = version.major < _POSTGRES_MIN
    return _finding("version", version.major, f"upgrade to {_POSTGRES_MIN} or later" if old else "", Verdict.BROKEN)


async def _pooler(connection: Any) -> Finding:
    pooled = await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid()
    remedy = "give the server's own URL: behind a pooler a late PREPARE cannot be stopped" if pooled else ""
    return _finding("reached through a pooler", "yes" if pooled else "no", remedy, Verdict.BROKEN)


async def _connections(connection: Any) -> Finding:
    most = int(await connection.fetchval("SHOW max_connections"))
    remedy = ""
    if most < _CONNECTIONS_MIN:
        remedy = f"each process may open up to {_CONNECTIONS_MIN}: raise it, or lower `pool` of the participant"
    return _finding("max_connections", most, remedy)


async def _slots(connection: Any) -> Finding:
    slots = int(await connection.fetchval("SHOW max_prepared_transactions"))
    remedy = "" if slots else "set max_prepared_transactions to max_connections for two-phase and last-resource"
    return _finding("max_prepared_transactions", slots, remedy)


async def _full_page_writes(connection: Any) -> Finding:
    value = await connection.fetchval("SHOW full_page_writes")
    remedy = "" if value == "on" else "set it on, unless the file system never tears a page: a crash may lose decisions"
    return _finding("full_page_writes", value, remedy)


async def _session_timeouts(connection: Any) -> Finding:
    """Timeouts that this role's sessions have: the server ends branches, and second phases, that take longer."""
    rows = await connection.fetch(
        "SELECT name, setting::bigint FROM pg_settings WHERE name = ANY($1::text[]) AND setting::bigint > 0",
        ["statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout", "idle_session_timeout"],
    )
    short = [row["name"] for row in rows if row["setting"] < limits.BRANCH_BUDGET_MAX_S * 1000]
    found = ", ".join(f"{row['name']} {row['setting']} ms" for row in rows) or "none"
    remedy = f"below {limits.BRANCH_BUDGET_MAX_S:.0f} s they end branches that may still be under way" if short else ""
    return _finding("timeouts of sessions", found, remedy)


async def _history(connection: Any) -> Finding:
    try:
        await connection.fetchval("SELECT system_identifier FROM pg_control_system()")
    except asyncpg.InsufficientPrivilegeError:
        remedy = "grant EXECUTE on pg_control_system(): without it a failover is not noticed"
        return _finding("history of the server", "cannot be read", remedy)
    return _finding("history of the server", "can be read")


async def _clock(connection: Any) -> Finding:
    """Ids carry our clock's time, by which a sweep tells how old a branch without a record is."""
    asked_s = time.time()
    theirs_s = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    off_s = abs(theirs_s - (asked_s + time.time()) / 2)
    remedy = "synchronise the clocks of this machine and the server (NTP)" if off_s > _CLOCKS_APART_S else ""
    verdict = Verdict.BROKEN if off_s > limits.PRESUME_ABORT_AFTER_S else Verdict.NOTE
    return _finding("clocks apart", f"{off_s:.1f} s", remedy, verdict)


async def _prefix(connection: Any) -> list[Finding]:
    """For whoever writes ACLs, and looks for what is ours on a server."""
    if await connection.fetchval("SELECT to_regclass('unanimity.prefix')") is None:
        return []
    own = await connection.fetchval("SELECT prefix FROM unanimity.prefix")
    return [_finding("prefix of the journal", own)]


def _tables(version: Version) -> Finding:
    found = f"{version.state}, at version {version.present}"
    if version.present > version.known:
        return _finding(f"tables of {version.component}", found, "upgrade this code: it is too old", Verdict.BROKEN)
    behind = "run `coordinator schema apply`" if version.present < version.known else ""
    return _finding(f"tables of {version.component}", found, behind)


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


async def _broker_settings(bootstrap: str, options: Mapping[str, Any]) -> list[dict[str, str]]:
    """Of every broker that runs; none where we may not see them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **options)
    try:
        await admin.start()
        brokers = (await admin.describe_cluster())["brokers"]
        resources = [ConfigResource(ConfigResourceType.BROKER, str(broker["node_id"])) for broker in brokers]
        found = [resource for answer in await admin.describe_configs(resources) for resource in answer.resources]
        return [{entry[0]: entry[1] for entry in resource[4]} for resource in found if resource[4]]
    except (KafkaError, OSError):
        return []
    finally:
        await admin.close()


def _durability(settings: dict[str, str]) -> list[Finding]:
    found = [
        _at_least(settings, name, least, remedy) for name, least, remedy in _LEAST if settings.get(name, "").isdigit()
    ]
    for name, value, verdict, remedy in _WRONG:
        if settings.get(name) == value:
            found.append(Finding("kafka", name, value, verdict, remedy))
    return found


def _at_least(settings: Mapping[str, str], name: str, least: int, remedy: str) -> Finding:
    enough = int(settings[name]) >= least
    return Finding("kafka", name, settings[name], Verdict.OK if enough else Verdict.NOTE, "" if enough else remedy)


_ONE_DISK = "at least {} outside of development, or the loss of one disk loses outcomes"
_LEAST = (
    ("transaction.state.log.replication.factor", 3, _ONE_DISK.format(3)),
    ("transaction.state.log.min.isr", 2, _ONE_DISK.format(2)),
    ("min.insync.replicas", 2, _ONE_DISK.format(2)),
    (
        "transaction.max.timeout.ms",
        int(limits.KAFKA_TRANSACTION_TIMEOUT_S * 1000),
        f"at least {limits.KAFKA_TRANSACTION_TIMEOUT_S * 1000:.0f}, or give Kafka(timeout_s=...) no more than this",
    ),
    (
        "transactional.id.expiration.ms",
        int(limits.JOURNAL_RETENTION_S * 1000),
        f"at least {limits.JOURNAL_RETENTION_S * 1000:.0f}, or an id may expire before its transaction is finished",
    ),
    (
        "message.max.bytes",
        limits.MESSAGE_BYTES_MAX,
        f"at least {limits.MESSAGE_BYTES_MAX}, or publish nothing that is larger than this: it is refused",
    ),
)
_WRONG = (
    (
        "unclean.leader.election.enable",
        "true",
        Verdict.BROKEN,
        "set it to false: an unclean leader forgets acknowledged messages",
    ),
    (
        "auto.create.topics.enable",
        "true",
        Verdict.NOTE,
        "set it to false, and create topics on purpose: a name with a typing error becomes a topic nobody reads",
    ),
)
