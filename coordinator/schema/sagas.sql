-- Sagas: one row when it begins, one for each thing that happened, and none is ever changed while it runs.
-- A row that changes owners says whether what was ready may have been begun (doubtful), and how often in a row its driver
-- was lost (adoptions) without anything more having happened than had then (stood events).
-- Whoever goes on with it begins a new reign over it: that is the term that participants are told.
-- Its number tells an owner's first unfinished saga, so that a successor need not look at all that have ended.

CREATE TABLE unanimity.sagas (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gid         text NOT NULL UNIQUE,
    name        text NOT NULL,
    definition  text NOT NULL,
    key         text,
    fingerprint text NOT NULL,
    input       json NOT NULL,
    owner       text NOT NULL,
    term        bigint NOT NULL,
    signalled   integer NOT NULL DEFAULT 0,
    wake_at     timestamptz,
    deadline_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    doubtful    boolean NOT NULL DEFAULT false,
    adoptions   integer NOT NULL DEFAULT 0,
    stood       integer NOT NULL DEFAULT 0,
    reigns      integer NOT NULL DEFAULT 1
);

CREATE UNIQUE INDEX sagas_key ON unanimity.sagas (name, key) WHERE key IS NOT NULL;

CREATE INDEX sagas_owner ON unanimity.sagas (owner, number);

CREATE INDEX sagas_asleep ON unanimity.sagas (wake_at) WHERE owner = '';

CREATE TABLE unanimity.saga_events (
    number   bigint NOT NULL,
    position integer NOT NULL,
    event    json NOT NULL,
    final    boolean NOT NULL DEFAULT false,
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (number, position)
);

CREATE INDEX saga_events_final ON unanimity.saga_events (number) WHERE final;

CREATE INDEX saga_events_ended ON unanimity.saga_events (at) WHERE final;

CREATE TABLE unanimity.saga_signals (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number  bigint NOT NULL,
    name    text NOT NULL,
    payload json NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX saga_signals_number ON unanimity.saga_signals (number, id);

CREATE TABLE unanimity.saga_owners (
    owner text PRIMARY KEY,
    first bigint NOT NULL,
    taken bigint NOT NULL DEFAULT 0
);

-- Which definitions each process has: what is pinned to one that no live process has, nobody can go on with. Behind the
-- pivot, if it has one, a saga only goes forward.
CREATE TABLE unanimity.saga_definitions (
    owner      text NOT NULL,
    definition text NOT NULL,
    pivot      text,
    PRIMARY KEY (owner, definition)
);
