-- The barrier: which deliveries of a step have passed, each recorded in the same transaction as its effect.
-- `direction` says what the delivery does (action and compensation; try, confirm and cancel; message). `state`:
--   intended   the marker of an effect outside of this database; how far it got is not known yet
--   done       its effect has happened
--   refused    it had no effect and never will have
--   blocked    its undo came first; it must not happen any more
--   undone, confirmed   how a later delivery ended it

CREATE TABLE unanimity.barrier (
    scope       text NOT NULL,
    gid         text NOT NULL,
    step        text NOT NULL,
    direction   text NOT NULL,
    state       text NOT NULL,
    term        bigint NOT NULL,
    fingerprint bytea,
    result      bytea,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, gid, step, direction)
);

CREATE INDEX barrier_recorded ON unanimity.barrier (recorded_at);
