-- How often a record was adopted from a process that died with it: one that kills whoever drives it is set aside.

ALTER TABLE unanimity.decisions ADD COLUMN adoptions integer NOT NULL DEFAULT 0;
