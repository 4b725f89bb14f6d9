-- Semantic locks: what a saga has reserved for itself across its transactions, in the database of the participant.
-- Who waits for what is committed apart from the waiter's own transaction, which is rolled back: so others see it.

CREATE TABLE unanimity.semantic_locks (
    resource text PRIMARY KEY,
    gid      text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX semantic_locks_gid ON unanimity.semantic_locks (gid);

CREATE TABLE unanimity.semantic_waits (
    gid      text NOT NULL,
    resource text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gid, resource)
);
