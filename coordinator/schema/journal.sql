-- The journal: who may drive what, what was decided, and whose transactional ids are whose.

CREATE TABLE unanimity.owners (
    owner       text PRIMARY KEY,
    term        bigint NOT NULL DEFAULT 1,
    lease_until timestamptz NOT NULL,
    taken_by    text,
    started_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE unanimity.decisions (
    gid             text PRIMARY KEY,
    standing        text NOT NULL CHECK (standing IN ('intent', 'parked', 'commit', 'abort')),
    owner           text NOT NULL,
    term            bigint NOT NULL,
    name            text NOT NULL,
    recipe          text NOT NULL,
    idempotency_key text,
    reason          text NOT NULL DEFAULT '',
    branches        jsonb NOT NULL DEFAULT '[]',
    outbox          text,
    hold_until      timestamptz,
    endings         jsonb,
    created_at      timestamptz NOT NULL DEFAULT now(),
    concluded_at    timestamptz,
    done_at         timestamptz,
    adoptions       integer NOT NULL DEFAULT 0,
    decided_by      text,
    adopted_at      timestamptz,
    reigns          integer NOT NULL DEFAULT 1
);

CREATE INDEX decisions_unfinished ON unanimity.decisions (owner) WHERE done_at IS NULL;

CREATE INDEX decisions_done ON unanimity.decisions (done_at) WHERE done_at IS NOT NULL;

CREATE UNIQUE INDEX decisions_key ON unanimity.decisions (name, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND standing <> 'abort';

CREATE TABLE unanimity.transactional_ids (
    cluster          text NOT NULL,
    transactional_id text NOT NULL,
    owner            text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster, transactional_id)
);

CREATE INDEX transactional_ids_owner ON unanimity.transactional_ids (owner);

CREATE SEQUENCE unanimity.transactional_id_numbers;

CREATE TABLE unanimity.alerts (
    gid         text NOT NULL,
    kind        text NOT NULL,
    detail      text NOT NULL,
    raised_at   timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolved_by text,
    resolution  text,
    PRIMARY KEY (gid, kind)
);

CREATE TABLE unanimity.attempts (
    gid      text NOT NULL,
    branch   text NOT NULL,
    action   text NOT NULL,
    tried    integer NOT NULL,
    answer   text NOT NULL,
    owner    text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gid, branch, action)
);

CREATE TABLE unanimity.audit (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT now(),
    actor  text NOT NULL,
    action text NOT NULL,
    gid    text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL DEFAULT ''
);

CREATE INDEX audit_gid ON unanimity.audit (gid);

CREATE TABLE unanimity.histories (
    system   text NOT NULL,
    timeline integer NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (system, timeline)
);

CREATE TABLE unanimity.prefix (
    prefix text NOT NULL,
    single boolean PRIMARY KEY DEFAULT true CHECK (single)
);

INSERT INTO unanimity.prefix (prefix) VALUES ('unan' || left(gen_random_uuid()::text, 8));
