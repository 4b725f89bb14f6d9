"""Every bound, in one place, and why they fit together. Seconds end in `_S`, bytes in `_BYTES`, counts in `_MAX`."""

# Ownership. A lease outlives a missed renewal or two; renewals and takeovers are decided by the database's clock.
LEASE_S = 10.0
LEASE_RENEWAL_S = LEASE_S / 4
LEASE_BELIEVED_SHARE = 0.75
# A process that stood still for this share of its lease does nothing before it has renewed it.
LAG_SHARE = 1 / 3
BEAT_SHARE = 1 / 40
RECOVERY_PERIOD_S = 2.0

# Time. A branch that is prepared holds locks of others, so it may not wait for ever for its decision.
BRANCH_BUDGET_S = 5.0
BRANCH_BUDGET_MAX_S = 30.0
TRANSACTION_DEADLINE_S = 30.0
# How long a caller waits for the second phase of what is decided, before it is told so and the engine goes on alone.
SETTLE_WITHIN_S = 5.0
PARTICIPANT_CALL_S = 5.0
KAFKA_TRANSACTION_TIMEOUT_S = 60.0

# A transactional id rests after its commit: the broker answers before it has written the markers (2 to 5 ms here), and
# an id that comes back earlier waits for the broker's own retry, which comes every 20 ms.
KAFKA_ID_REST_S = 0.02
KAFKA_RETRY_PAUSE_S = 0.02
KAFKA_RETRY_PAUSE_MAX_S = 0.3

# Absence means abort only for ids that are old enough for their owner to have decided, and young enough for the
# journal to still remember; two looks must agree, so that a decision in flight is not taken for none.
PRESUME_ABORT_AFTER_S = BRANCH_BUDGET_MAX_S
PRESUME_ABORT_LOOKS_APART_S = 10.0
JOURNAL_RETENTION_S = 24 * 3600.0
PURGE_PERIOD_S = 600.0
# What a sweep asks of a participant has its own bounds as a rule; this one is for those that have none. What is decided
# is called for so many branches at a time, since each may hang.
SWEEP_CALL_S = 30.0
SWEEP_TOGETHER_MAX = 4
# After a failover, commits that were finished this recently are looked for: no standby that is promoted lags further.
FAILOVER_LOOK_BACK_S = 900.0
# How far apart the clocks of processes and the journal may be, where an id's age is compared with the journal's.
CLOCKS_APART_S = 10.0
# A record of our own that nobody here is busy with is driven again when it is older than any drive takes to begin.
OWN_RECORD_IDLE_S = 5.0
# A record that was adopted more often without being finished kills whoever drives it: it waits for a person.
ADOPTIONS_MAX = 5

# Retries of what must be finished, for ever, with full jitter.
FINISH_BACKOFF_S = 0.05
FINISH_BACKOFF_MAX_S = 5.0
# Retries of one participant: one for every ten first attempts, and a few in reserve. What must be finished is asked for
# again also without, but then as late as may be.
RETRY_COSTS_ATTEMPTS = 10
RETRY_RESERVE = 20
# What a participant may hold of transactions that were rolled back, and could not be asked to drop: of more than so
# many, one is left to the sweep.
SHARES_LEFT_MAX = 2_000
# Finished transactions are recorded off the critical path, many at a time.
FINISH_GATHER_S = 0.05

# Stopping: Kubernetes kills after 30 seconds. One deadline for the whole; each step leaves what the later ones need.
STOP_WITHIN_S = 22.0
DRAIN_LEAVES_S = 10.0
ENGINE_LEAVES_S = 8.0
RELAYS_LEAVE_S = 6.5
PARTICIPANTS_LEAVE_S = 2.0
RESIGNING_LEAVES_S = 1.0
DRIVER_STOPS_WITHIN_S = 1.0
DRAIN_LOOK_S = 0.02

# Gauges show what was last looked at; counting an outbox's rows is a query.
OBSERVE_PERIOD_S = 5.0

# Circuit breaker: open when half of the last twenty calls failed, but not before four of them did.
BREAKER_WINDOW = 20
BREAKER_CALLS_MIN = 4
BREAKER_FAILURES_SHARE = 0.5
BREAKER_REST_S = 2.0

# Sizes. The identifier bound leaves room below Postgres' 200 bytes for prepared transaction ids.
GID_BYTES_MAX = 120
# Name and key together are an entry of an index, which has room for 2,700 bytes.
NAME_BYTES_MAX = 500
KEY_BYTES_MAX = 2_000
# So are the scope, the transaction and the step of a delivery, together.
BARRIER_KEY_BYTES_MAX = 2_500
MESSAGE_BYTES_MAX = 1024 * 1024
MESSAGES_PER_TRANSACTION_MAX = 10_000
BRANCHES_MAX = 16
ANSWER_CHARACTERS_MAX = 500
TRANSACTIONS_OPEN_MAX = 10_000
JOURNAL_BATCH_MAX = 500
# Nothing begins while the journal is behind by so many records or seconds, a pool is used by so much, or so many wait.
JOURNAL_WAITING_MAX = 10 * JOURNAL_BATCH_MAX
JOURNAL_BEHIND_MAX_S = 3.0
FINISHES_PENDING_MAX = 20_000
KAFKA_POOL_SHARE = 0.8
WAITING_MAX = 200
KAFKA_POOL_MIN = 8
KAFKA_POOL_MAX = 4096
KAFKA_CONNECTIONS = 16
OUTBOX_BATCH_MAX = 1000
OUTBOX_SHARDS = 16
POLL_EVERY_S = 1.0

# Services that are called over HTTP. A service that asks for more time than this is asked again sooner.
HTTP_BODY_BYTES_MAX = 1024 * 1024
RETRY_AFTER_MAX_S = 300.0

# Sagas.
STEP_TIMEOUT_S = 30.0
SAGA_PARALLEL_MAX = 16
SAGA_ADOPT_MAX = 500
SAGA_INPUT_BYTES_MAX = 1024 * 1024
SAGA_OUTPUT_BYTES_MAX = 1024 * 1024
SAGA_SIGNAL_BYTES_MAX = 1024 * 1024
# Whoever drives a saga reads all that it was sent. (Not counted out: operators' words, and first replies.)
SAGA_SIGNALS_MAX = 1000
SAGA_STEPS_MAX = 100
SAGA_LOOK_S = 0.2
SAGA_WAIT_MAX_S = 100 * 365 * 24 * 3600.0
# A saga that was lost with so many processes in a row is suspected of being what kills them. Another suspect is tried
# when it has made progress, or has killed nobody for so long.
SAGA_SUSPECT = 2
SAGA_SUSPECT_S = 2.0
# At each look, so many of the sagas that run are asked about: with ten thousand, each has its turn in about a second.
SAGAS_ASKED_MAX = 2500
# A key that stands for an ended saga must outlive whoever may still ask for it again.
SAGA_RETENTION_S = 7 * 24 * 3600.0
# A process finds so many at most to go on with, beside those that it drives: the rest is left to others, or to later.
SAGAS_FOUND_MAX = 10_000
# One that no code here can read is tried again after so long: by then, others may have it, or there may be other code.
SAGA_UNREADABLE_S = 30.0
# Calls of one participant by the sagas of one process; of a rate, what comes in a tenth of a second may come at once.
CALLS_IN_FLIGHT_MAX = 100
CALLS_TOGETHER_S = 0.1

assert SAGA_SUSPECT < ADOPTIONS_MAX, "what is suspected is tried alone before it is parked"
assert STOP_WITHIN_S < 25.0, "stopping leaves time to exit before we are killed"
assert STOP_WITHIN_S > DRAIN_LEAVES_S > ENGINE_LEAVES_S > RELAYS_LEAVE_S > PARTICIPANTS_LEAVE_S > RESIGNING_LEAVES_S > 0
assert STOP_WITHIN_S - DRAIN_LEAVES_S > 2 * PARTICIPANT_CALL_S, "what is under way can end, if its participants answer"
assert LEASE_RENEWAL_S / LEASE_S + LAG_SHARE + BEAT_SHARE < LEASE_BELIEVED_SHARE, (
    "a standstill too short to be noticed ends while the lease is still believed"
)
assert LEASE_RENEWAL_S * 3 < LEASE_S, "two renewals may fail before a lease is lost"
assert PARTICIPANT_CALL_S < SWEEP_CALL_S, "a participant says what is wrong before it is cut off"
assert BRANCH_BUDGET_S <= BRANCH_BUDGET_MAX_S <= PRESUME_ABORT_AFTER_S, (
    "nobody presumes abort while an owner may decide"
)
assert PRESUME_ABORT_AFTER_S < JOURNAL_RETENTION_S, "absence must still mean something when it is looked at"
assert 2 * BRANCH_BUDGET_MAX_S <= KAFKA_TRANSACTION_TIMEOUT_S, "a vote is valid for half of the broker's own timeout"
