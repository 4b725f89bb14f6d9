-- How often somebody else, or the same process after a sleep, has gone on with a saga: what participants are told as its
-- term, by which they turn away whoever was replaced.

ALTER TABLE unanimity.sagas ADD COLUMN reigns integer NOT NULL DEFAULT 1;
