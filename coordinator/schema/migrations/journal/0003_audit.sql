-- An alert is resolved by somebody, with a reason; and what operators did is kept, one row for each act.

ALTER TABLE unanimity.alerts
    ADD COLUMN resolved_at timestamptz,
    ADD COLUMN resolved_by text,
    ADD COLUMN resolution  text;

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
