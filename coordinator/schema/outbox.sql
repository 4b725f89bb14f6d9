-- The outbox: messages beside the business rows they belong to.
-- `waiting` rows belong to a Kafka transaction whose outcome is not known yet; nobody delivers them before it is.

CREATE TABLE unanimity.outbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id      text NOT NULL,
    gid             text,
    participant     text NOT NULL,
    topic           text NOT NULL,
    key             bytea,
    value           bytea,
    headers         jsonb NOT NULL DEFAULT '[]',
    partition       integer,
    shard           smallint NOT NULL,
    waiting         boolean NOT NULL DEFAULT false,
    dead            boolean NOT NULL DEFAULT false,
    attempts        integer NOT NULL DEFAULT 0,
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz
);

CREATE INDEX outbox_ready ON unanimity.outbox (id, shard) WHERE NOT waiting AND NOT dead;

CREATE INDEX outbox_waiting ON unanimity.outbox (gid) WHERE waiting;
