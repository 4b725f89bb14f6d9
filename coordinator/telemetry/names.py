"""Every name that telemetry gives: metrics, spans and attributes. `docs/telemetry.md` is made from this.

A metric's attributes have few values: participants, policies, kinds. Ids and keys are attributes of spans only, and
what a message says is nowhere.
"""

from dataclasses import dataclass
from enum import StrEnum

SCOPE = "unanimity"
"""The instrumentation scope of everything here."""


class Kind(StrEnum):
    """What a metric is to the one who draws it."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"
    TOTAL = "counter, looked at"
    """Counted elsewhere, and looked at now and then as gauges are."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A key of spans or metrics."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Metric:
    """An instrument, and the attributes that its values carry."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[Attribute, ...] = ()
    bounds: tuple[float, ...] | None = None
    """Of a histogram's buckets."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span: its name is a pattern with few values."""

    name: str
    description: str
    attributes: tuple[Attribute, ...] = ()


# ── attributes ──

ACTION = Attribute("unanimity.action", "what was done: prepare, intend, hold, decide, commit, abort, release")
ALERT = Attribute("unanimity.alert", "the kind of the alert, as `docs/operating.md` lists them")
ENDING = Attribute("unanimity.ending", "how the branch ended: committed, aborted, deferred, hazard")
ERROR = Attribute("error.type", "the class of what was raised, never its text: that may quote rows")
GID = Attribute("unanimity.gid", "the global transaction")
OUTCOME = Attribute(
    "unanimity.outcome",
    "committed, deferred (and the relay delivers), aborted, parked, heuristic, or unfinished (left to others)",
)
PARTICIPANT = Attribute("unanimity.participant", "the name under which the participant was registered")
POLICY = Attribute("unanimity.policy", "the kind of the failure policy; recovered where another process began it")
POOL = Attribute("unanimity.pool", "ordinary, or two-phase")
QUEUE = Attribute("unanimity.queue", "decisions (forced), or finishes (not forced)")
REASON = Attribute("unanimity.reason", "the bound that was reached, in a few words; stopping")
RECIPE = Attribute("unanimity.recipe", "commit-record, two-phase, last-resource, outbox")
STANDING = Attribute("unanimity.standing", "what the journal says: intent, parked, commit, abort")
STATE = Attribute("unanimity.state", "waiting (for the Kafka transaction), ready, dead")
TRANSACTION_NAME = Attribute("unanimity.name", "the name that the code gave the transaction")
VOTE = Attribute("unanimity.vote", "yes, no, read-only")
CONSUMER = Attribute("messaging.consumer.group.name", "the consumer that the inbox belongs to")
MESSAGE_ID = Attribute("messaging.message.id", "the message's id, which its `message-id` header carries as well")
TOPIC = Attribute("messaging.destination.name", "the topic")

# ── spans ──

TRANSACTION = Span(
    "transaction {name}",
    "one transaction, from the beginning of its block until it owes nothing; a child of the caller's span",
    (GID, TRANSACTION_NAME, RECIPE, POLICY, OUTCOME, ERROR),
)
RECOVERY = Span(
    "recover {name}",
    "the rest of a transaction that another process (or an earlier drive) began; linked to the first span",
    (GID, TRANSACTION_NAME, RECIPE, POLICY, OUTCOME),
)
PERFORMING = Span(
    "{action} {participant}",
    "one attempt at one action, a child of the transaction's span; deciding is the journal's and names nobody",
    (ACTION, PARTICIPANT, VOTE, ENDING, OUTCOME, ERROR),
)
PUBLISHING = Span(
    "publish {topic}",
    "a message was taken by the transaction; the message carries this span's context in its headers",
    (TOPIC, MESSAGE_ID, PARTICIPANT),
)
DELIVERING = Span(
    "deliver {topic}",
    "the relay delivers a message from an outbox; a child of the publishing span",
    (TOPIC, MESSAGE_ID, PARTICIPANT, ERROR),
)
HANDLING = Span(
    "process {topic}",
    "a consumer handles a message (`Inbox.handling`); a child of the publishing span",
    (TOPIC, MESSAGE_ID, CONSUMER, ERROR),
)

# ── metrics ──

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

OUTCOMES = Metric(
    "unanimity.transaction.outcomes",
    Kind.COUNTER,
    "{transaction}",
    "Transactions that this process has driven to an end",
    (OUTCOME, POLICY, RECIPE),
)
DURATION = Metric(
    "unanimity.transaction.duration",
    Kind.HISTOGRAM,
    "s",
    "From the beginning of a block, or of a recovery, until its transaction owes nothing",
    (OUTCOME, POLICY, RECIPE),
    _SECONDS,
)
OPEN = Metric(
    "unanimity.transactions.open",
    Kind.GAUGE,
    "{transaction}",
    "Blocks that are open here, and transactions being driven",
)
REFUSALS = Metric(
    "unanimity.admission.refusals",
    Kind.TOTAL,
    "{refusal}",
    "Transactions that were not let in, with nothing done",
    (REASON,),
)
UNFINISHED = Metric(
    "unanimity.journal.unfinished",
    Kind.GAUGE,
    "{transaction}",
    "Transactions in the journal that owe something still, whoever drives them",
    (STANDING,),
)
UNFINISHED_AGE = Metric("unanimity.journal.unfinished.age", Kind.GAUGE, "s", "Age of the oldest of them", (STANDING,))
IN_DOUBT = Metric(
    "unanimity.in_doubt.branches",
    Kind.GAUGE,
    "{branch}",
    "Prepared branches at the last look, whoever prepared them",
    (PARTICIPANT,),
)
IN_DOUBT_AGE = Metric(
    "unanimity.in_doubt.age", Kind.GAUGE, "s", "Age of the oldest prepared branch at the last look", (PARTICIPANT,)
)
POOL_SIZE = Metric("unanimity.pool.size", Kind.GAUGE, "{id}", "Transactional ids of this process", (PARTICIPANT, POOL))
POOL_RESTING = Metric(
    "unanimity.pool.resting", Kind.GAUGE, "{id}", "Transactional ids that no transaction uses now", (PARTICIPANT, POOL)
)
POOL_REST = Metric(
    "unanimity.pool.rest",
    Kind.GAUGE,
    "s",
    "How long the id that is taken next has rested; below 0.02 s the broker may still write its markers",
    (PARTICIPANT, POOL),
)
OUTBOX_ROWS = Metric(
    "unanimity.outbox.rows", Kind.GAUGE, "{row}", "Rows in the outbox of a database", (PARTICIPANT, STATE)
)
OUTBOX_AGE = Metric(
    "unanimity.outbox.age", Kind.GAUGE, "s", "Age of the oldest row that could be delivered now", (PARTICIPANT,)
)
JOURNAL_BATCH = Metric(
    "unanimity.journal.batch_size",
    Kind.HISTOGRAM,
    "{record}",
    "Records that shared one write of the journal",
    (QUEUE,),
    (1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)
RETRIES = Metric(
    "unanimity.retries",
    Kind.COUNTER,
    "{retry}",
    "Actions that are asked for again, having had no answer or none that helps",
    (PARTICIPANT, ACTION),
)
RETRIES_REFUSED = Metric(
    "unanimity.retries.refused",
    Kind.TOTAL,
    "{retry}",
    "Retries that the participant's budget did not allow: not made, or made as late as may be",
    (PARTICIPANT,),
)
BREAKER_OPEN = Metric(
    "unanimity.breaker.open", Kind.GAUGE, "1", "1 while calls of the participant are refused, else 0", (PARTICIPANT,)
)
ALERTS = Metric(
    "unanimity.alerts", Kind.COUNTER, "{alert}", "Alerts that this process was the first to raise", (ALERT,)
)
OWNER_LOSSES = Metric(
    "unanimity.owner.losses", Kind.COUNTER, "{loss}", "Times that this process was replaced as an owner"
)
STANDSTILLS = Metric(
    "unanimity.loop.standstills",
    Kind.TOTAL,
    "{standstill}",
    "Times that this process stood still for a third of a lease",
)
LOOP_LAG = Metric("unanimity.loop.lag", Kind.GAUGE, "s", "By how much the event loop was late at its last beat")

ATTRIBUTES = tuple(value for value in globals().copy().values() if isinstance(value, Attribute))
SPANS = tuple(value for value in globals().copy().values() if isinstance(value, Span))
METRICS = tuple(value for value in globals().copy().values() if isinstance(value, Metric))
