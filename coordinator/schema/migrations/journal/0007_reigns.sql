-- How many processes have driven a transaction, one after the other: what participants are told as its term, by which
-- they turn away whoever was replaced.

ALTER TABLE unanimity.decisions ADD COLUMN reigns integer NOT NULL DEFAULT 1;
