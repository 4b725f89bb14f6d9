-- flush --
-- Sagas that begin and things that happened, written only while we hold our term: its row is locked, so that a takeover
-- waits until they are durable. (A text each, of records and fields between the separators that ASCII has for them, which
-- stand nowhere in JSON or in a name. The driver spends twice the time of this statement on checking arrays, and the
-- server a quarter of it on taking JSON apart.)
WITH held AS MATERIALIZED (
    SELECT owner, term FROM unanimity.owners WHERE owner = $1 AND term = $2 FOR SHARE
), started AS (
    INSERT INTO unanimity.sagas (gid, name, definition, key, fingerprint, input, owner, term, deadline_at)
    SELECT split_part(s, E'\x1f', 1), split_part(s, E'\x1f', 2), split_part(s, E'\x1f', 3),
           split_part(s, E'\x1f', 4)::json #>> '{}', split_part(s, E'\x1f', 5), split_part(s, E'\x1f', 6)::json,
           held.owner, held.term, now() + make_interval(secs => nullif(split_part(s, E'\x1f', 7), '')::float8)
    FROM held, string_to_table($3, E'\x1e') AS s
    ON CONFLICT DO NOTHING
    RETURNING gid, number
), appended AS (
    INSERT INTO unanimity.saga_events (number, position, event, final)
    SELECT split_part(e, E'\x1f', 1)::bigint, split_part(e, E'\x1f', 2)::integer, split_part(e, E'\x1f', 3)::json,
           split_part(e, E'\x1f', 4)::boolean
    FROM held, string_to_table($4, E'\x1e') AS e
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM held) AS held, (SELECT count(*) FROM appended) AS appended,
       (SELECT array_agg(gid) FROM started) AS gids, (SELECT array_agg(number) FROM started) AS numbers;

-- start_one --
-- The same for a single saga, without taking texts apart: where it returns no row, the long way says why.
INSERT INTO unanimity.sagas (gid, name, definition, key, fingerprint, input, owner, term, deadline_at)
SELECT $3, $4, $5, $6, $7, $8, owner, term, now() + make_interval(secs => $9)
FROM unanimity.owners WHERE owner = $1 AND term = $2 FOR SHARE
ON CONFLICT DO NOTHING
RETURNING number;

-- append_one --
-- The same for a single thing that happened.
INSERT INTO unanimity.saga_events (number, position, event, final)
SELECT $3, $4, $5, $6 FROM unanimity.owners WHERE owner = $1 AND term = $2 FOR SHARE
ON CONFLICT DO NOTHING
RETURNING number;

-- append_freed --
-- The same for what lets a parked saga go on, which closes its alert: of one that it ends nobody could do so later.
WITH appended AS (
    INSERT INTO unanimity.saga_events (number, position, event, final)
    SELECT $3, $4, $5, $6 FROM unanimity.owners WHERE owner = $1 AND term = $2 FOR SHARE
    ON CONFLICT DO NOTHING
    RETURNING number
), resolved AS (
    UPDATE unanimity.alerts AS a SET resolved_at = now(), resolved_by = $7, resolution = $8
    FROM appended JOIN unanimity.sagas AS s USING (number)
    WHERE a.gid = s.gid AND a.kind = $9 AND a.resolved_at IS NULL
    RETURNING a.gid, a.kind
), told AS (
    INSERT INTO unanimity.audit (actor, action, gid, reason, detail)
    SELECT $7, 'resolve alert', gid, $8, kind FROM resolved
)
SELECT number FROM appended;

-- standing --
-- The saga that stands for this id, or for this name and key.
SELECT number, gid, fingerprint FROM unanimity.sagas WHERE gid = $1 OR (name = $2 AND key = $3) ORDER BY gid <> $1 LIMIT 1;

-- written --
-- What stands at these positions.
SELECT e.number, e.position, e.event FROM unanimity.saga_events AS e
JOIN unnest($1::bigint[], $2::int[]) AS w (number, position) USING (number, position);

-- suspend --
-- They are nobody's until their time comes; a signal that came meanwhile is its time. (The counter is in the row, so that
-- a signal and this exclude each other. Whoever has taken one up since has raised its reigns: this one is late.)
UPDATE unanimity.sagas AS s SET
    owner = '',
    doubtful = r.doubtful,
    wake_at = CASE WHEN s.signalled > r.seen THEN now() ELSE now() + make_interval(secs => r.wake_in_s) END
FROM json_to_recordset($3) AS r (number bigint, reign integer, seen integer, wake_in_s float8, doubtful boolean)
WHERE s.number = r.number AND s.owner = $1 AND s.term = $2 AND s.reigns = r.reign
  AND EXISTS (SELECT FROM unanimity.owners AS o WHERE o.owner = $1 AND o.term = $2);

-- awake --
-- Sagas whose time has come become ours.
WITH due AS (
    SELECT number FROM unanimity.sagas
    WHERE owner = '' AND wake_at <= now() AND definition = ANY($3::text[])
    ORDER BY wake_at LIMIT $4 FOR UPDATE SKIP LOCKED
), held AS MATERIALIZED (
    SELECT owner, term FROM unanimity.owners WHERE owner = $1 AND term = $2 FOR SHARE
), lowered AS (
    INSERT INTO unanimity.saga_owners AS o (owner, first, taken) SELECT $1, 0, 1 WHERE EXISTS (SELECT FROM due)
    ON CONFLICT (owner) DO UPDATE SET first = least(o.first, (SELECT min(number) FROM due)), taken = o.taken + 1
)
UPDATE unanimity.sagas AS s SET owner = held.owner, term = held.term, wake_at = NULL, reigns = s.reigns + 1
FROM due, held WHERE s.number = due.number RETURNING s.number;

-- adopt --
-- Unfinished sagas of owners that were taken over become ours, whoever took them over: perhaps it does not know them.
-- Each time is counted, but for owners that resigned: they did not die of it. Where something was written since the
-- last time, it begins anew. Those with a count from $5 to below $6 are adopted by themselves ($7).
-- (Owner by owner, and saga by saga, whatever the planner believes: hence the comparison of rows, which only the index of
-- owners serves, and the scalar subquery, which is no join. What ended a saga is its last event, and that is asked for by
-- the primary key: asked for by `final`, it was looked for among all that have ended, where none had when statistics were
-- taken. All that have ended are in the same tables, and this is asked several times a second.)
WITH taken AS MATERIALIZED (
    SELECT o.owner, o.term, coalesce(f.first, 0) AS first, CASE WHEN o.lease_until = '-infinity' THEN 0 ELSE 1 END AS died
    FROM unanimity.owners AS o LEFT JOIN unanimity.saga_owners AS f USING (owner) WHERE o.taken_by IS NOT NULL
), left_over AS MATERIALIZED (
    SELECT number, died FROM taken CROSS JOIN LATERAL (
        SELECT s.number FROM unanimity.sagas AS s
        WHERE s.owner = taken.owner AND (s.owner, s.number) >= (taken.owner, taken.first) AND s.term < taken.term
          AND s.definition = ANY($3::text[]) AND (s.adoptions >= $5 AND s.adoptions < $6) = $7
          AND (SELECT final FROM unanimity.saga_events AS e WHERE e.number = s.number ORDER BY position DESC LIMIT 1) IS NOT TRUE
        ORDER BY s.number LIMIT $4 FOR UPDATE SKIP LOCKED
    ) AS theirs ORDER BY number LIMIT $4
), held AS MATERIALIZED (
    SELECT owner, term FROM unanimity.owners WHERE owner = $1 AND term = $2 FOR SHARE
), lowered AS (
    INSERT INTO unanimity.saga_owners AS o (owner, first, taken) SELECT $1, 0, 1 WHERE EXISTS (SELECT FROM left_over)
    ON CONFLICT (owner) DO UPDATE SET first = least(o.first, (SELECT min(number) FROM left_over)), taken = o.taken + 1
)
UPDATE unanimity.sagas AS s SET
    owner = held.owner, term = held.term, reigns = s.reigns + 1, doubtful = true, stood = now_at.stands,
    adoptions = left_over.died + CASE WHEN s.stood = now_at.stands THEN s.adoptions ELSE 0 END
FROM held, left_over CROSS JOIN LATERAL (
    SELECT count(*)::integer AS stands FROM unanimity.saga_events AS e WHERE e.number = left_over.number
) AS now_at
WHERE s.number = left_over.number RETURNING s.number;

-- strays --
-- Unfinished sagas of ours that nobody here drives are taken up: the answer to a start or to a takeover was lost.
WITH lost AS (
    SELECT s.number FROM unanimity.sagas AS s
    WHERE s.owner = $1 AND s.term = $2
      AND s.number >= coalesce((SELECT first FROM unanimity.saga_owners WHERE owner = $1), 0)
      AND s.definition = ANY($3::text[]) AND s.number <> ALL($4::bigint[])
      AND s.created_at < now() - make_interval(secs => $5)
      AND (SELECT final FROM unanimity.saga_events AS e WHERE e.number = s.number ORDER BY position DESC LIMIT 1) IS NOT TRUE
    ORDER BY s.number LIMIT $6 FOR UPDATE
)
UPDATE unanimity.sagas AS s SET reigns = s.reigns + 1 FROM lost WHERE s.number = lost.number RETURNING s.number;

-- release --
-- Others may have them at once.
UPDATE unanimity.sagas SET owner = '', wake_at = now(), doubtful = number = ANY($4::bigint[])
WHERE number = ANY($1::bigint[]) AND owner = $2 AND term = $3
  AND EXISTS (SELECT FROM unanimity.owners AS o WHERE o.owner = $2 AND o.term = $3);

-- load --
-- Sagas with all that happened to them, in order.
SELECT s.number, s.gid, s.name, s.definition, s.key, s.input, s.owner, s.signalled,
       extract(epoch FROM now())::float8 AS at_s,
       extract(epoch FROM s.deadline_at - now())::float8 AS left_s,
       coalesce(e.events, '{}') AS events, coalesce(e.ended, false) AS ended, s.doubtful, s.reigns,
       CASE WHEN s.stood = coalesce(cardinality(e.events), 0) THEN s.adoptions ELSE 0 END AS adoptions
FROM unanimity.sagas AS s LEFT JOIN LATERAL (
    SELECT array_agg(event::text ORDER BY position) AS events, bool_or(final) AS ended
    FROM unanimity.saga_events WHERE number = s.number
) AS e ON true
WHERE s.number = ANY($1::bigint[]) OR s.gid = $2 OR (s.name = $3 AND s.key = $4)
ORDER BY s.number;

-- send --
-- A signal, unless there are $4 already. An operator's word (which begins with $5) is not counted out, and no more is a
-- reply ($6) that is the first to its command. Its saga's row is changed with it, so that going to sleep and being woken
-- exclude each other.
WITH told AS (
    UPDATE unanimity.sagas AS s SET
        signalled = signalled + 1,
        wake_at = CASE WHEN owner = '' THEN now() ELSE wake_at END
    WHERE gid = $1 AND (signalled < $4 OR starts_with($2, $5) OR (starts_with($2, $6) AND NOT EXISTS (
          SELECT FROM unanimity.saga_signals AS g WHERE g.number = s.number AND g.name = $2
      )))
      AND (SELECT final FROM unanimity.saga_events AS e WHERE e.number = s.number ORDER BY position DESC LIMIT 1) IS NOT TRUE
    RETURNING number
)
INSERT INTO unanimity.saga_signals (number, name, payload) SELECT number, $2, $3 FROM told RETURNING id;

-- signals --
-- What it was sent.
SELECT id, name, payload FROM unanimity.saga_signals WHERE number = $1 ORDER BY id;

-- unheard --
-- Of these sagas, those that were sent more than they have read.
SELECT s.number FROM unnest($1::bigint[], $2::int[]) AS r (number, signalled)
JOIN unanimity.sagas AS s ON s.number = r.number WHERE s.signalled > r.signalled;

-- settled --
-- Waits for all that we were about to begin or to take over, also for what a lost connection has left behind: they hold
-- this lock. What we begin later has a later number than all that stand afterwards.
SELECT FROM unanimity.owners WHERE owner = $1 FOR UPDATE;

-- first --
-- Where our unfinished sagas began when this was last looked at, how often we had taken over any, and which is the last.
SELECT coalesce(o.first, 0) AS first, coalesce(o.taken, 0) AS taken,
       coalesce((SELECT max(number) FROM unanimity.sagas), 0) AS last
FROM (SELECT) AS one LEFT JOIN unanimity.saga_owners AS o ON o.owner = $1;

-- tidy --
-- Where our unfinished sagas begin, of those that stood when this was asked for: what is below has ended. Not where we
-- have taken over any since: that goes back, and is not undone by this one if it arrives late.
INSERT INTO unanimity.saga_owners AS o (owner, first)
SELECT $1, coalesce((
    SELECT s.number FROM unanimity.sagas AS s
    WHERE s.owner = $1 AND s.number BETWEEN $2 AND $4
      AND (SELECT final FROM unanimity.saga_events AS e WHERE e.number = s.number ORDER BY position DESC LIMIT 1) IS NOT TRUE
    ORDER BY s.number LIMIT 1
), $4::bigint + 1)
ON CONFLICT (owner) DO UPDATE SET first = excluded.first WHERE o.first = $2 AND o.taken = $3;

-- purge --
-- Forget sagas that ended long ago, a batch at a time; first those that ended first.
WITH old AS (
    SELECT number FROM unanimity.saga_events WHERE final AND at < now() - make_interval(secs => $1)
    ORDER BY at LIMIT $2
), sagas AS (
    DELETE FROM unanimity.sagas AS s USING old WHERE s.number = old.number
), events AS (
    DELETE FROM unanimity.saga_events AS e USING old WHERE e.number = old.number
), signals AS (
    DELETE FROM unanimity.saga_signals AS g USING old WHERE g.number = old.number
)
SELECT count(*) FROM old;

-- now --
SELECT extract(epoch FROM clock_timestamp())::float8;

-- know --
-- Which definitions this process has, and their pivots. What processes had that are forgotten is forgotten too.
WITH forgotten AS (
    DELETE FROM unanimity.saga_definitions AS d
    WHERE NOT EXISTS (SELECT FROM unanimity.owners AS o WHERE o.owner = d.owner)
)
INSERT INTO unanimity.saga_definitions (owner, definition, pivot)
SELECT $1, d.definition, d.pivot FROM unnest($2::text[], $3::text[]) AS d (definition, pivot) ON CONFLICT DO NOTHING;
