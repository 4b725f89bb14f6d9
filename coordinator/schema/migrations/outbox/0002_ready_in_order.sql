-- A relay reads the backlog in the order of the rows, whichever shards are its own: no plan needs to sort it.

DROP INDEX unanimity.outbox_ready;

CREATE INDEX outbox_ready ON unanimity.outbox (id, shard) WHERE NOT waiting AND NOT dead;
