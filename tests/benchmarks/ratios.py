"""The ratios that a run comes to, what each ought to reach, and which sides they are made of."""

from tests.benchmarks.measure import Ratio

CONCURRENCY = (1, 8, 32)
KAFKA_ONLY, COMMIT_RECORD, TWO_PHASE, LAST_RESOURCE = "kafka_only", "commit_record", "two_phase", "last_resource"
AIOKAFKA, OUTBOX, DELIVERED, ROW, PLAIN = "aiokafka", "outbox", "outbox_delivered", "row", "asyncpg"
BARE = "bare"
RELAY, RELAY2, TXOUTBOX, TXOUTBOX2, PRODUCER = "relay", "relay2", "txoutbox", "txoutbox2", "producer"
SAGA_CONCURRENCY = (1, 64, 256)
SAGA, DBOS = "saga", "dbos"
RELAY_LATENCY, TXOUTBOX_LATENCY, PRODUCER_LATENCY = "relay.500", "txoutbox.500", "producer.500"

_RECIPES = {
    KAFKA_ONLY: ((4.0, 2.5, 2.0), "transactions of one message on our pool"),
    COMMIT_RECORD: ((2.0, 1.3, 0.85), "a row and a message as one, commit record"),
    TWO_PHASE: ((1.4, 1.1, 0.75), "a row and a message as one, two-phase"),
    LAST_RESOURCE: ((1.4, 1.1, 0.75), "a row and a message as one, last resource"),
}


def _against_aiokafka() -> list[Ratio]:
    return [
        Ratio(
            f"{recipe}_c{c}",
            (f"{recipe}.c{c}", "rate"),
            (f"{AIOKAFKA}.c{c}", "rate"),
            least,
            f"{meaning} ÷ aiokafka's own Kafka-only transactions",
        )
        for recipe, (targets, meaning) in _RECIPES.items()
        for c, least in zip(CONCURRENCY, targets, strict=True)
    ]


RATIOS: tuple[Ratio, ...] = (
    *_against_aiokafka(),
    Ratio(
        "commit_record_p99_c1",
        (f"{AIOKAFKA}.c1", "p99_ms"),
        (f"{COMMIT_RECORD}.c1", "p99_ms"),
        3.0,
        "aiokafka's Kafka-only p99 ÷ commit record's p99",
    ),
    Ratio(
        "outbox_commit_c32",
        (f"{OUTBOX}.c32", "rate"),
        (f"{ROW}.c32", "rate"),
        0.8,
        "business transactions with an outbox row ÷ without",
    ),
    Ratio(
        "relay_vs_producer",
        (RELAY, "rate"),
        (PRODUCER, "rate"),
        0.7,
        "a relay draining a backlog, ordered per key ÷ a bare aiokafka producer with the same batches",
    ),
    Ratio("relay_vs_txoutbox", (RELAY, "rate"), (TXOUTBOX, "rate"), 6.0, "one relay ÷ one of txoutbox, tuned"),
    Ratio("relay2_vs_txoutbox2", (RELAY2, "rate"), (TXOUTBOX2, "rate"), 10.0, "two relays ÷ two of txoutbox, tuned"),
    *(
        Ratio(
            f"relay_p{p}_vs_txoutbox",
            (TXOUTBOX_LATENCY, f"p{p}_ms"),
            (RELAY_LATENCY, f"p{p}_ms"),
            1.0,
            f"txoutbox's p{p} ÷ ours, commit to consumer, at a steady 500 events a second",
        )
        for p in (50, 99)
    ),
    *(
        Ratio(
            f"saga_vs_dbos_c{c}",
            (f"{SAGA}.c{c}", "rate"),
            (f"{DBOS}.c{c}", "rate"),
            least,
            "our three-step sagas ÷ DBOS's, at its fastest settings",
        )
        for c, least in zip(SAGA_CONCURRENCY, (8.0, 100.0, 100.0), strict=True)
    ),
    Ratio(
        "saga_latency_vs_dbos_c1",
        (f"{DBOS}.c1", "p50_ms"),
        (f"{SAGA}.c1", "p50_ms"),
        4.0,
        "DBOS's p50 ÷ ours, for a three-step saga",
    ),
)

MORE: tuple[Ratio, ...] = (
    *(
        Ratio(
            f"bare_c{c}",
            (f"{BARE}.c{c}", "rate"),
            (f"{AIOKAFKA}.c{c}", "rate"),
            None,
            "a commit record's requests by hand, with no coordinator ÷ aiokafka's Kafka-only transactions",
        )
        for c in CONCURRENCY
    ),
    *(
        Ratio(
            f"commit_record_vs_bare_c{c}",
            (f"{COMMIT_RECORD}.c{c}", "rate"),
            (f"{BARE}.c{c}", "rate"),
            None,
            "commit record ÷ its requests by hand, without a coordinator",
        )
        for c in CONCURRENCY
    ),
    Ratio(
        "outbox_delivered_c32",
        (f"{DELIVERED}.c32", "rate"),
        (f"{ROW}.c32", "rate"),
        None,
        "with an outbox row, delivered meanwhile by a relay in the same process ÷ without",
    ),
    Ratio(
        "row_vs_asyncpg_c32",
        (f"{ROW}.c32", "rate"),
        (f"{PLAIN}.c32", "rate"),
        None,
        "a business transaction in our block, with its record ÷ BEGIN, INSERT, COMMIT on asyncpg",
    ),
    Ratio(
        "outbox_vs_asyncpg_c32",
        (f"{OUTBOX}.c32", "rate"),
        (f"{PLAIN}.c32", "rate"),
        None,
        "with an outbox row, in our block ÷ BEGIN, INSERT, COMMIT on asyncpg, without one",
    ),
    Ratio(
        "commit_record_vs_kafka_only_c32",
        (f"{COMMIT_RECORD}.c32", "rate"),
        (f"{KAFKA_ONLY}.c32", "rate"),
        None,
        "commit record ÷ Kafka alone on the same pool",
    ),
    Ratio("relay2_vs_relay", (RELAY2, "rate"), (RELAY, "rate"), None, "two relays ÷ one"),
    Ratio(
        "relay_p50_vs_producer",
        (RELAY_LATENCY, "p50_ms"),
        (PRODUCER_LATENCY, "p50_ms"),
        None,
        "the relay's p50, commit to consumer ÷ a producer's, send to consumer",
    ),
)
