-- server --
-- Which database this is, and what the promise needs of it.
SELECT
    coalesce((SELECT system_identifier::text FROM pg_control_system()), '') AS system,
    coalesce((SELECT timeline_id FROM pg_control_checkpoint()), 0) AS timeline,
    (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
    current_setting('max_prepared_transactions')::int AS slots,
    pg_is_in_recovery() AS standby;

-- mark --
-- The branch's marker, and the transaction's id and its server's timeline, before it is prepared.
WITH marked AS (
    INSERT INTO unanimity.branches (gid, branch) VALUES ($1, $2)
)
SELECT pg_current_xact_id()::text;

-- wrote --
-- Whether the transaction has written anything yet (a trigger's writes count).
SELECT pg_current_xact_id_if_assigned() IS NOT NULL;

-- outcome --
-- How a branch ended that is not prepared any more: by its marker, or by the status of its transaction's id.
SELECT
    EXISTS (SELECT FROM unanimity.branches WHERE gid = $1 AND branch = $2) AS marked,
    EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $3 AND database = current_database()) AS prepared,
    CASE WHEN $4::text IS NOT NULL AND $5 = (SELECT system_identifier::text FROM pg_control_system())
              AND $6 = (SELECT timeline_id FROM pg_control_checkpoint())
         THEN pg_xact_status($4::xid8) END AS status;

-- scan --
-- Prepared transactions in this database, with their ages by this server's clock.
SELECT gid, extract(epoch FROM now() - prepared)::float8 AS age_s FROM pg_prepared_xacts
WHERE database = current_database() AND gid LIKE $1 || ':%';

-- terminate --
-- End a backend whose request may still be under way, and wait until it is gone.
SELECT pg_terminate_backend(pid, $2) FROM pg_stat_activity WHERE pid = $1;

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
