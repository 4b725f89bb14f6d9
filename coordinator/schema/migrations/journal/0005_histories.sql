-- The histories that this journal has been in: a failover, or a backup that was restored, begins another one.

CREATE TABLE unanimity.histories (
    system   text NOT NULL,
    timeline integer NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (system, timeline)
);
