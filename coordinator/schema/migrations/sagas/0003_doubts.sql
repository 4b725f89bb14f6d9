-- What a saga's successor has to know: whether what was ready may have been begun, and how often in a row whoever drove it
-- was lost without anything more having happened than had then.

ALTER TABLE unanimity.sagas
    ADD COLUMN doubtful boolean NOT NULL DEFAULT false,
    ADD COLUMN adoptions integer NOT NULL DEFAULT 0,
    ADD COLUMN stood integer NOT NULL DEFAULT 0;

-- How often an owner has taken over sagas: its first unfinished one may have gone back each time.

ALTER TABLE unanimity.saga_owners ADD COLUMN taken bigint NOT NULL DEFAULT 0;

-- Sagas are forgotten in the order in which they ended.

CREATE INDEX saga_events_ended ON unanimity.saga_events (at) WHERE final;
