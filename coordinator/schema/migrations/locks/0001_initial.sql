CREATE SCHEMA IF NOT EXISTS unanimity;

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
