"""What would break a promise in a topic: it can be set otherwise than its brokers are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from coordinator import limits
from coordinator.doctor import Finding, Verdict
from participants import KafkaSecurity

_UNKNOWN_TOPIC = 3


async def examine_topics(bootstrap: str, topics: Sequence[str], options: Mapping[str, str]) -> list[Finding]:
    """The settings of *topics*, as the promises need them. *options*: as `KafkaSecurity` has them."""
    security = KafkaSecurity(**options)  # type: ignore[arg-type]  # Names and values are the operator's own.
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **security.options())
    try:
        await admin.start()
        copies = {each["topic"]: each for each in await admin.describe_topics([*topics])}
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
        settings = {each[3]: dict(entry[:2] for entry in each[4]) for answer in answers for each in answer.resources}
    except (KafkaError, OSError) as failure:
        return [Finding("kafka", "topics", repr(failure), Verdict.NOTE, "ask again when a broker answers")]
    finally:
        await admin.close()
    return [finding for topic in topics for finding in examine_topic(topic, copies[topic], settings.get(topic, {}))]


def examine_topic(topic: str, described: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[Finding]:
    """What a broker says of *topic*: of its partitions, and of its settings."""
    if described["error_code"] == _UNKNOWN_TOPIC:
        yield _finding(topic, "topic", "is not there", "create it: what is published to it is refused")
        return
    if described["error_code"] or not settings:
        remedy = "grant DescribeConfigs and Describe on the topic, for as long as doctor is to look at it"
        yield _finding(topic, "settings", "cannot be read", remedy)
        return
    copies = min(len(partition["replicas"]) for partition in described["partitions"])
    yield _finding(
        *(topic, "replicas", copies, "3 outside of development, or the loss of one disk loses messages"),
        good=copies >= 3,
    )
    least = int(settings["min.insync.replicas"])
    yield _finding(
        *(topic, "min.insync.replicas", least, "2 outside of development, or the loss of one disk loses messages"),
        good=least >= 2,
    )
    yield _finding(
        *(topic, "unclean.leader.election.enable", settings["unclean.leader.election.enable"]),
        "set it to false: an unclean leader forgets acknowledged messages",
        good=settings["unclean.leader.election.enable"] == "false",
        verdict=Verdict.BROKEN,
    )
    kept_ms, day_ms = int(settings["retention.ms"]), int(limits.JOURNAL_RETENTION_S * 1000)
    yield _finding(
        *(topic, "retention.ms", kept_ms),
        f"at least {day_ms}: how an interrupted transaction ended is read from the topic, and may be gone",
        good=kept_ms < 0 or kept_ms >= day_ms,
    )


def _finding(
    topic: str, what: str, found: object, remedy: str, *, good: bool = False, verdict: Verdict = Verdict.NOTE
) -> Finding:
    return Finding("kafka", f"{what} of {topic}", str(found), Verdict.OK if good else verdict, "" if good else remedy)
