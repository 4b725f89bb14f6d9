-- transactions --
-- Transactions by where they are, the oldest first while they are unfinished, else the newest. ($4 lists the kinds of
-- heuristic outcomes, which are never forgotten.)
SELECT d.gid, d.name, d.recipe, d.standing, d.done_at IS NOT NULL AS done, d.reason, d.branches, d.endings, d.owner,
       coalesce(o.lease_until > now() AND o.term = d.term, false) AS owner_lives,
       extract(epoch FROM now() - d.created_at)::float8 AS age_s,
       (SELECT count(*) FROM unanimity.alerts AS a WHERE a.gid = d.gid AND a.resolved_at IS NULL) AS alerts
FROM unanimity.decisions AS d LEFT JOIN unanimity.owners AS o USING (owner)
WHERE CASE $1
        WHEN 'unfinished' THEN d.done_at IS NULL
        WHEN 'finished' THEN d.done_at IS NOT NULL
        WHEN 'parked' THEN d.done_at IS NULL AND d.standing = 'parked'
        WHEN 'alerted' THEN EXISTS (SELECT FROM unanimity.alerts AS a WHERE a.gid = d.gid AND a.resolved_at IS NULL)
        WHEN 'torn' THEN EXISTS (SELECT FROM unanimity.alerts AS a WHERE a.gid = d.gid AND a.kind = ANY($4::text[]))
        ELSE true
      END
  AND ($2 = '' OR d.name = $2)
ORDER BY d.done_at IS NOT NULL, CASE WHEN d.done_at IS NULL THEN d.created_at END, d.created_at DESC
LIMIT $3;

-- transaction --
-- All that the journal knows of one transaction.
SELECT *, extract(epoch FROM hold_until - now())::float8 AS hold_s FROM unanimity.decisions WHERE gid = $1;

-- attempts --
-- What was tried and answered.
SELECT branch, action, tried, answer, owner, first_at, last_at FROM unanimity.attempts WHERE gid = $1 ORDER BY last_at;

-- messages --
-- What of it still stands in this database's outbox.
SELECT participant, count(*) AS messages, count(*) FILTER (WHERE waiting) AS waiting, count(*) FILTER (WHERE dead) AS dead,
       max(last_error) AS last_error
FROM unanimity.outbox WHERE gid = $1 GROUP BY participant ORDER BY participant;

-- prefix --
SELECT prefix FROM unanimity.prefix;

-- owners --
-- Who drives transactions, and who did.
SELECT o.owner, o.term, extract(epoch FROM o.lease_until - now())::float8 AS lease_s, o.taken_by, o.started_at,
       (SELECT count(*) FROM unanimity.decisions AS d WHERE d.owner = o.owner AND d.done_at IS NULL) AS unfinished,
       (SELECT count(*) FROM unanimity.transactional_ids AS i WHERE i.owner = o.owner) AS ids
FROM unanimity.owners AS o ORDER BY o.started_at, o.owner;

-- ids --
-- Transactional ids, whose they are, and the unfinished transaction that one of them is named by.
SELECT i.cluster, i.transactional_id, i.owner, coalesce(o.lease_until > now(), false) AS owner_lives, i.created_at,
       (SELECT d.gid FROM unanimity.decisions AS d
        WHERE d.done_at IS NULL AND d.branches @> jsonb_build_array(
            jsonb_build_object('evidence', jsonb_build_object('transactional_id', i.transactional_id)))
        LIMIT 1) AS named_by
FROM unanimity.transactional_ids AS i LEFT JOIN unanimity.owners AS o USING (owner)
ORDER BY i.cluster, length(i.transactional_id), i.transactional_id;

-- pulse --
-- One look at everything: what is unfinished, what was finished lately, and who is there.
SELECT
    (SELECT count(*) FROM unanimity.decisions WHERE done_at IS NULL AND standing IN ('commit', 'abort')) AS finishing,
    (SELECT count(*) FROM unanimity.decisions WHERE done_at IS NULL AND standing = 'intent') AS intents,
    (SELECT count(*) FROM unanimity.decisions WHERE done_at IS NULL AND standing = 'parked') AS parked,
    (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
     FROM unanimity.decisions WHERE done_at IS NULL) AS oldest_s,
    (SELECT count(*) FROM unanimity.decisions
     WHERE done_at > now() - make_interval(secs => $1) AND standing = 'commit') / $1 AS commits_per_s,
    (SELECT count(*) FROM unanimity.decisions
     WHERE done_at > now() - make_interval(secs => $1) AND standing = 'abort') / $1 AS aborts_per_s,
    (SELECT count(*) FROM unanimity.owners WHERE lease_until > now()) AS owners_alive,
    (SELECT count(*) FROM unanimity.owners WHERE lease_until <= now()) AS owners_dead,
    (SELECT count(*) FROM unanimity.transactional_ids) AS ids,
    (SELECT count(*) FROM unanimity.alerts WHERE resolved_at IS NULL) AS alerts,
    (SELECT count(*) FROM unanimity.outbox WHERE waiting) AS outbox_waiting,
    (SELECT count(*) FROM unanimity.outbox WHERE NOT waiting AND NOT dead) AS outbox_ready,
    (SELECT count(*) FROM unanimity.outbox WHERE dead) AS outbox_dead,
    (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
     FROM unanimity.outbox WHERE NOT waiting AND NOT dead) AS outbox_oldest_s;

-- backlog --
-- What is in the outbox, and how old the oldest row is that could be delivered now.
SELECT count(*) FILTER (WHERE waiting) AS waiting,
       count(*) FILTER (WHERE NOT waiting AND NOT dead) AS ready,
       count(*) FILTER (WHERE dead) AS dead,
       coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE NOT waiting AND NOT dead)), 0)::float8 AS oldest_s
FROM unanimity.outbox;

-- shards --
-- Which relay delivers which shards.
SELECT coalesce(relay, '(nobody)') AS relay, array_agg(shard ORDER BY shard) AS shards,
       min(extract(epoch FROM lease_until - now()))::float8 AS lease_s
FROM unanimity.outbox_shards GROUP BY relay ORDER BY relay;

-- alerts --
-- The alerts about one transaction.
SELECT kind, detail, raised_at, resolved_at, resolved_by, resolution FROM unanimity.alerts WHERE gid = $1 ORDER BY raised_at;

-- audit --
-- What operators did about one transaction.
SELECT at, actor, action, reason, detail FROM unanimity.audit WHERE gid = $1 ORDER BY id;

-- all_alerts --
-- Every alert that is open; $1: and those that were resolved.
SELECT gid, kind, detail, raised_at, extract(epoch FROM now() - raised_at)::float8 AS age_s,
       resolved_at, resolved_by, resolution
FROM unanimity.alerts WHERE $1 OR resolved_at IS NULL ORDER BY raised_at;

-- unfinished --
-- What of a transaction is there still, for a branch that was found in doubt.
SELECT d.gid, d.standing, d.reason, d.branches, d.done_at IS NOT NULL AS done, d.owner,
       extract(epoch FROM now() - d.created_at)::float8 AS age_s,
       coalesce(o.lease_until > now() AND o.term = d.term, false) AS owner_lives
FROM unanimity.decisions AS d LEFT JOIN unanimity.owners AS o USING (owner)
WHERE d.gid = ANY($1::text[]) OR (d.done_at IS NULL AND d.standing IN ('intent', 'parked'))
ORDER BY d.created_at;

-- sagas --
-- Sagas that have ended ($1), that have not, or both ($2); the oldest first while they are unfinished, else the newest.
SELECT s.gid, s.name, s.key, s.definition, s.owner, s.wake_at, e.ended, coalesce(e.events, '[]') AS events,
       extract(epoch FROM now() - s.created_at)::float8 AS age_s,
       coalesce(o.lease_until > now() AND o.term = s.term, false) AS owner_lives,
       EXISTS (SELECT FROM unanimity.saga_definitions AS d JOIN unanimity.owners AS p USING (owner)
               WHERE d.definition = s.definition AND p.lease_until > now()) AS known,
       (SELECT max(d.pivot) FROM unanimity.saga_definitions AS d WHERE d.definition = s.definition) AS pivot
FROM unanimity.sagas AS s LEFT JOIN unanimity.owners AS o USING (owner), LATERAL (
    SELECT json_agg(event ORDER BY position) AS events, coalesce(bool_or(final), false) AS ended
    FROM unanimity.saga_events AS e WHERE e.number = s.number
) AS e
WHERE ($2 OR e.ended = $1) AND ($3 = '' OR s.name = $3) AND ($4 = '' OR s.gid = $4)
ORDER BY e.ended, CASE WHEN e.ended THEN -s.number ELSE s.number END
LIMIT $5;

-- saga_times --
-- When each thing happened to a saga.
SELECT e.at FROM unanimity.saga_events AS e JOIN unanimity.sagas AS s USING (number) WHERE s.gid = $1 ORDER BY e.position;

-- saga_signals --
-- What a saga was sent.
SELECT g.name, g.at FROM unanimity.saga_signals AS g JOIN unanimity.sagas AS s USING (number) WHERE s.gid = $1 ORDER BY g.id;

-- stranded --
-- Definitions that sagas are pinned to which have not ended, and that no live process has.
SELECT s.definition, count(*) AS sagas, max(extract(epoch FROM now() - s.created_at))::float8 AS oldest_s
FROM unanimity.sagas AS s
WHERE NOT EXISTS (SELECT FROM unanimity.saga_events AS e WHERE e.number = s.number AND e.final)
  AND NOT EXISTS (SELECT FROM unanimity.saga_definitions AS d JOIN unanimity.owners AS o USING (owner)
                  WHERE d.definition = s.definition AND o.lease_until > now())
GROUP BY s.definition ORDER BY s.definition;
