-- server --
-- Which database this is, and what the promise needs of it. A pooler gives out pids that are not its backends'.
SELECT
    (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
    current_setting('server_version_num')::int AS version,
    current_setting('max_prepared_transactions')::int AS slots,
    current_setting('synchronous_commit') AS synchronous_commit,
    coalesce(current_setting('prepared_orphaned_transaction_timeout', true), '0') AS ends_prepared_after,
    pg_is_in_recovery() AS standby,
    pg_backend_pid() AS backend;

-- mark --
-- Leave the branch's marker, if it has written anything yet (a trigger's writes count): then it has a transaction id.
-- `same_block`: whether this is still the transaction that was begun for this gid.
WITH marked AS (
    INSERT INTO unanimity.branches (gid, branch)
    SELECT $1, $2 WHERE pg_current_xact_id_if_assigned() IS NOT NULL
    RETURNING 1
)
SELECT
    EXISTS (SELECT FROM marked) AS wrote,
    pg_current_xact_id_if_assigned()::text AS xid,
    coalesce(current_setting('unanimity.gid', true), '') = $1 AS same_block;

-- prepared --
-- Those of ours that are still prepared here.
SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid = ANY($1::text[]);

-- marked --
-- Those whose marker is visible: committed. Asked after `prepared`: a branch that is committed between the two has one.
SELECT gid FROM unanimity.branches WHERE branch = $1 AND gid = ANY($2::text[]);

-- status --
-- The status of a transaction's id in this history; null for an id that is too old.
SELECT pg_xact_status($1::text::xid8);

-- scan --
-- Prepared transactions in this database, with their ages by this server's clock.
SELECT gid, extract(epoch FROM now() - prepared)::float8 AS age_s FROM pg_prepared_xacts
WHERE database = current_database() AND gid LIKE $1 || ':%';

-- write_outbox --
-- Waiting rows beside the business rows of a branch that will be prepared.
INSERT INTO unanimity.outbox (message_id, gid, participant, topic, key, value, headers, partition, shard, waiting)
SELECT m.message_id, $1, m.participant, m.topic, m.key, m.value, m.headers, m.partition, m.shard, m.waiting
FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::jsonb[], $8::int[], $9::smallint[],
    $10::boolean[])
    WITH ORDINALITY AS m (message_id, participant, topic, key, value, headers, partition, shard, waiting, position)
ORDER BY m.position;

-- release_outbox --
-- Waiting rows become the relay's.
UPDATE unanimity.outbox SET waiting = false WHERE gid = $1 AND participant = $2 AND waiting;

-- clear_outbox --
-- Rows whose messages Kafka has committed.
DELETE FROM unanimity.outbox AS o USING unnest($1::text[], $2::text[]) AS d (gid, participant)
WHERE o.gid = d.gid AND o.participant = d.participant AND o.waiting;

-- purge --
-- Markers that nobody asks for any more.
DELETE FROM unanimity.branches
WHERE (gid, branch) IN (
    SELECT gid, branch FROM unanimity.branches WHERE created_at < now() - make_interval(secs => $1) LIMIT $2
);
