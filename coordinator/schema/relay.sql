-- Which relay delivers which shard: one owner at a time, by lease and term.

CREATE TABLE unanimity.outbox_relays (
    relay       text PRIMARY KEY,
    lease_until timestamptz NOT NULL
);

CREATE TABLE unanimity.outbox_shards (
    shard       smallint PRIMARY KEY,
    relay       text,
    term        bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT '-infinity'
);
