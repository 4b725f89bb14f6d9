-- alive --
-- This relay lives; how many relays do.
WITH me AS (
    INSERT INTO unanimity.outbox_relays (relay, lease_until) VALUES ($1, now() + make_interval(secs => $2))
    ON CONFLICT (relay) DO UPDATE SET lease_until = excluded.lease_until
), gone AS (
    DELETE FROM unanimity.outbox_relays WHERE lease_until < now() - interval '1 hour'
)
SELECT count(*) + 1 FROM unanimity.outbox_relays WHERE lease_until > now() AND relay <> $1;

-- shards --
-- The rows that shards are claimed by.
INSERT INTO unanimity.outbox_shards (shard) SELECT generate_series(0, $1 - 1) ON CONFLICT DO NOTHING;

-- renew --
-- Prolong the shards that are still ours.
UPDATE unanimity.outbox_shards SET lease_until = now() + make_interval(secs => $2)
WHERE relay = $1 RETURNING shard, term;

-- claim --
-- Take free shards, up to a share. A term is bumped with every new owner.
UPDATE unanimity.outbox_shards AS s SET
    relay = $1, term = s.term + 1, lease_until = now() + make_interval(secs => $2)
FROM (
    SELECT shard FROM unanimity.outbox_shards
    WHERE lease_until < now() ORDER BY random() LIMIT $3 FOR UPDATE SKIP LOCKED
) AS free
WHERE s.shard = free.shard RETURNING s.shard, s.term;

-- release --
-- Give shards back: at the end, or because others have too few.
UPDATE unanimity.outbox_shards SET relay = NULL, lease_until = '-infinity' WHERE relay = $1 AND shard = ANY($2::smallint[]);

-- leave --
-- This relay is gone.
DELETE FROM unanimity.outbox_relays WHERE relay = $1;

-- select --
-- Rows that are the relay's, in their order, after a position that only lives as long as one pass over the backlog.
SELECT id, shard, message_id, participant, topic, key, value, headers, partition, attempts,
       next_attempt_at IS NULL OR next_attempt_at <= now() AS due
FROM unanimity.outbox
WHERE shard = ANY($1::smallint[]) AND NOT waiting AND NOT dead AND id > $2
-- (An id is unique; the shard is there so that exactly one index has this order.)
ORDER BY outbox.id, outbox.shard LIMIT $3;

-- delete --
-- Delivered rows, as long as their shards are still ours: a relay that was replaced deletes nothing.
DELETE FROM unanimity.outbox WHERE id = ANY($1::bigint[]) AND shard = ANY(ARRAY(
    SELECT s.shard FROM unanimity.outbox_shards AS s
    JOIN unnest($2::smallint[], $3::bigint[]) AS m (shard, term) USING (shard, term)
));

-- postpone --
-- A row that was refused: try again later, or give it up to an operator. As long as its shard is still ours.
UPDATE unanimity.outbox AS o SET
    attempts = o.attempts + 1,
    last_error = $2,
    dead = o.attempts + 1 >= $3,
    next_attempt_at = now() + make_interval(secs => $4)
FROM unanimity.outbox_shards AS s
WHERE o.id = $1 AND s.shard = o.shard AND s.term = $5 RETURNING o.dead;

-- lag --
-- What is in the outbox, and how old the oldest row is that could be delivered now.
SELECT
    count(*) FILTER (WHERE waiting) AS waiting,
    count(*) FILTER (WHERE NOT waiting AND NOT dead) AS ready,
    count(*) FILTER (WHERE dead) AS dead,
    coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE NOT waiting AND NOT dead)), 0)::float8 AS age_s
FROM unanimity.outbox;

-- list_dead --
-- What was given up, the oldest first.
SELECT id, message_id, participant, topic, key, attempts, last_error, created_at FROM unanimity.outbox
WHERE dead ORDER BY outbox.id LIMIT $1;

-- retry_dead --
-- Deliver it after all.
UPDATE unanimity.outbox SET dead = false, attempts = 0, next_attempt_at = NULL WHERE id = ANY($1::bigint[]) AND dead;

-- discard_dead --
-- Never deliver it.
DELETE FROM unanimity.outbox WHERE id = ANY($1::bigint[]) AND dead;
