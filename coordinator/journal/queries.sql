-- decide --
-- Insert decisions, first insert wins. INTENT, PARKED and COMMIT only while we hold our term: the owner's row is locked,
-- so that a takeover and a decision exclude each other. An ABORT may be written by anyone, at any time.
WITH proposed AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::text[], $9::jsonb[], $10::text[], $11::float8[], $12::int[])
        AS p (owner, term, gid, standing, name, recipe, key, reason, branches, outbox, hold_s, reigns)
), held AS MATERIALIZED (
    SELECT o.owner, o.term FROM unanimity.owners AS o
    WHERE (o.owner, o.term) IN (SELECT owner, term FROM proposed WHERE standing <> 'abort')
    ORDER BY o.owner FOR UPDATE
), written AS (
    INSERT INTO unanimity.decisions
        (gid, standing, owner, term, name, recipe, idempotency_key, reason, branches, outbox, reigns, hold_until)
    SELECT gid, standing, owner, term, name, recipe, key, reason, branches, outbox, reigns,
           now() + make_interval(secs => hold_s)
    FROM proposed
    WHERE standing = 'abort' OR (owner, term) IN (SELECT owner, term FROM held)
    ON CONFLICT DO NOTHING
    RETURNING gid, standing
)
SELECT gid, standing FROM written
UNION ALL
SELECT owner || '/' || term, NULL FROM held;

-- standings --
-- What stands about these transactions, as committed now.
SELECT gid, standing FROM unanimity.decisions WHERE gid = ANY($1::text[]);

-- decide_within --
-- The commit record: the decision and the outbox rows, inside the business transaction, in one round trip.
-- No row comes back when an abort stands already. (A transaction that is being decided by another one makes this wait.)
WITH written AS (
    INSERT INTO unanimity.decisions
        (gid, standing, owner, term, name, recipe, idempotency_key, reason, branches, outbox)
    VALUES ($1, 'commit', $2, $3, $4, $5, $6, $7, $8::jsonb, $9)
    ON CONFLICT DO NOTHING
    RETURNING gid
), stored AS (
    INSERT INTO unanimity.outbox (message_id, gid, participant, topic, key, value, headers, partition, shard, waiting)
    SELECT m.message_id, written.gid, m.participant, m.topic, m.key, m.value, m.headers, m.partition, m.shard, m.waiting
    FROM written, unnest($10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[], $15::jsonb[], $16::int[],
        $17::smallint[], $18::boolean[])
        WITH ORDINALITY AS m (message_id, participant, topic, key, value, headers, partition, shard, waiting, position)
    ORDER BY m.position
)
SELECT gid FROM written;

-- decide_within_one --
-- The same with one message, which is what most have: arrays of one cost both sides more than the rows do.
WITH written AS (
    INSERT INTO unanimity.decisions
        (gid, standing, owner, term, name, recipe, idempotency_key, reason, branches, outbox)
    VALUES ($1, 'commit', $2, $3, $4, $5, $6, $7, $8::jsonb, $9)
    ON CONFLICT DO NOTHING
    RETURNING gid
)
INSERT INTO unanimity.outbox (message_id, gid, participant, topic, key, value, headers, partition, shard, waiting)
SELECT $10::text, written.gid, $11::text, $12::text, $13::bytea, $14::bytea, $15::jsonb, $16::int, $17::smallint,
    $18::boolean
FROM written
RETURNING gid;

-- record_within --
-- The commit record of a transaction without messages.
INSERT INTO unanimity.decisions
    (gid, standing, owner, term, name, recipe, idempotency_key, reason, branches, outbox)
VALUES ($1, 'commit', $2, $3, $4, $5, $6, $7, $8::jsonb, $9)
ON CONFLICT DO NOTHING
RETURNING gid;

-- conclude --
-- An intent or a parked transaction becomes a decision, once; whoever concludes it finishes it.
UPDATE unanimity.decisions SET
    standing = $2, reason = CASE WHEN $3 = '' THEN reason ELSE $3 END, concluded_at = now(), owner = $4, term = $5,
    decided_by = NULL, adopted_at = NULL, hold_until = now() + make_interval(secs => $6)
WHERE gid = $1 AND standing IN ('intent', 'parked');

-- finish --
-- Nothing is owed any more. An intent becomes what the last resource did; a decision never changes.
UPDATE unanimity.decisions AS d SET
    done_at = now(),
    endings = f.endings,
    standing = CASE WHEN d.standing IN ('intent', 'parked') THEN f.outcome ELSE d.standing END
FROM unnest($1::text[], $2::text[], $3::jsonb[]) AS f (gid, outcome, endings)
WHERE d.gid = f.gid AND d.done_at IS NULL;

-- adopt --
-- Make unfinished records of the dead ours: of owners we took over, of owners that are no longer listed, and records
-- whose owner's term has moved past them. And, once, parked records that were held for longer than they may be.
-- Every adoption is counted, but those from an owner that resigned: it did not die of them. One with more than $6 is set
-- aside: not adopted while its alert is open, nor to be driven before somebody has resolved it. Who had recorded what
-- stands is kept; of what was held for too long it is the adopter, who decides by that.
WITH found AS (
    SELECT d.gid, d.owner AS former, d.standing, coalesce(o.lease_until = '-infinity', false) AS resigned
    FROM unanimity.decisions AS d LEFT JOIN unanimity.owners AS o USING (owner)
    WHERE d.done_at IS NULL AND d.owner <> $1
      AND (o.owner IS NULL OR o.taken_by = $1 OR o.term > d.term)
      AND d.standing <> 'parked'
    UNION ALL
    SELECT d.gid, d.owner, d.standing, true FROM unanimity.decisions AS d
    WHERE d.done_at IS NULL AND d.standing = 'parked' AND d.hold_until < now()
    UNION ALL
    SELECT d.gid, d.owner, d.standing, false FROM unanimity.decisions AS d
    WHERE d.done_at IS NULL AND d.standing <> 'parked' AND d.owner = $1 AND d.gid <> ALL($4::text[])
      AND d.created_at < now() - make_interval(secs => $5)
), locked AS (
    -- Looked at once more under the lock: another process may have adopted it since.
    SELECT d.gid, found.former, found.resigned FROM unanimity.decisions AS d JOIN found USING (gid)
    WHERE d.owner = found.former AND d.standing = found.standing AND d.done_at IS NULL
      AND NOT (d.adoptions > $6 AND EXISTS (
          SELECT FROM unanimity.alerts AS a WHERE a.gid = d.gid AND a.kind = $7 AND a.resolved_at IS NULL))
    ORDER BY d.gid LIMIT $3 FOR UPDATE OF d SKIP LOCKED
)
UPDATE unanimity.decisions AS d SET
    owner = $1,
    term = $2,
    reigns = d.reigns + 1,
    adoptions = d.adoptions + CASE WHEN locked.resigned THEN 0 ELSE 1 END,
    decided_by = CASE WHEN d.standing <> 'parked' THEN coalesce(d.decided_by, d.owner || ' (term ' || d.term || ')') END,
    adopted_at = CASE WHEN d.standing <> 'parked' THEN now() END,
    concluded_at = CASE WHEN d.standing = 'parked' THEN now() ELSE d.concluded_at END,
    standing = CASE WHEN d.standing = 'parked' THEN 'abort' ELSE d.standing END,
    reason = CASE WHEN d.standing = 'parked' THEN 'held for longer than it may be' ELSE d.reason END
FROM locked
WHERE d.gid = locked.gid
RETURNING d.*, locked.former, extract(epoch FROM now() - d.created_at)::float8 AS age_s,
    d.adoptions > $6 AND NOT EXISTS (SELECT FROM unanimity.alerts AS a WHERE a.gid = d.gid AND a.kind = $7) AS set_aside;

-- look_up --
-- The row about one transaction.
SELECT *, extract(epoch FROM hold_until - now())::float8 AS hold_s FROM unanimity.decisions WHERE gid = $1;

-- unfinished --
-- What is not finished, by what stands, and how old the oldest of it is.
SELECT standing, count(*)::int AS records, extract(epoch FROM now() - min(created_at))::float8 AS age_s
FROM unanimity.decisions WHERE done_at IS NULL GROUP BY standing;

-- look_up_key --
-- The row of the transaction that has this idempotency key.
SELECT *, extract(epoch FROM hold_until - now())::float8 AS hold_s FROM unanimity.decisions
WHERE name = $1 AND idempotency_key = $2 AND standing <> 'abort';

-- commits_elsewhere --
-- Commits with a branch that voted ($1: its name and vote), but not in this history ($2: its name and evidence): those
-- that were finished between $3 and $4 seconds ago, and with the latest of them all that are not finished.
SELECT gid, done_at IS NOT NULL AS done FROM unanimity.decisions
WHERE standing = 'commit'
  AND ((done_at IS NULL AND $4::float8 = 0)
    OR (done_at > now() - make_interval(secs => $3) AND done_at <= now() - make_interval(secs => $4)))
  AND branches @> $1::jsonb AND NOT branches @> $2::jsonb;

-- remembers_since --
-- Note the history that the journal is in now, and tell when it was first seen, where it is not the first.
WITH noted AS (
    INSERT INTO unanimity.histories (system, timeline)
    SELECT system_identifier::text, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
    FROM pg_control_system()
    ON CONFLICT DO NOTHING RETURNING seen_at
)
SELECT max(seen_at) FROM (SELECT seen_at FROM unanimity.histories UNION ALL SELECT seen_at FROM noted) AS seen
HAVING count(*) > 1;

-- note_ending --
-- A branch of a finished transaction was found to have ended otherwise.
UPDATE unanimity.decisions SET endings = coalesce(endings, '{}') || jsonb_build_object($2::text, $3::text)
WHERE gid = $1 AND done_at IS NOT NULL;

-- note_attempt --
-- What an owed call was last answered, and how often it was tried.
INSERT INTO unanimity.attempts (gid, branch, action, tried, answer, owner) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (gid, branch, action) DO UPDATE
SET tried = attempts.tried + excluded.tried, answer = excluded.answer, owner = excluded.owner, last_at = now();

-- purge --
-- Forget decisions that were finished long ago, a batch at a time; never one with an open alert ($3 lists the kinds of
-- heuristic outcomes: those are never forgotten at all).
WITH forgotten AS (
    DELETE FROM unanimity.decisions WHERE gid IN (
        SELECT gid FROM unanimity.decisions AS d
        WHERE done_at < now() - make_interval(secs => $1)
          AND NOT EXISTS (
              SELECT FROM unanimity.alerts AS a
              WHERE a.gid = d.gid AND (a.resolved_at IS NULL OR a.kind = ANY($3::text[]))
          )
        LIMIT $2
    ) RETURNING gid
), attempts AS (
    DELETE FROM unanimity.attempts AS t USING forgotten WHERE t.gid = forgotten.gid
)
SELECT count(*) FROM forgotten;

-- register --
-- A new owner, with a lease by the database's clock.
INSERT INTO unanimity.owners (owner, lease_until) VALUES ($1, now() + make_interval(secs => $2)) RETURNING term;

-- renew --
-- Prolong our lease, unless somebody has bumped our term.
UPDATE unanimity.owners SET lease_until = now() + make_interval(secs => $3) WHERE owner = $1 AND term = $2 RETURNING term;

-- resign --
-- End our lease now.
UPDATE unanimity.owners SET lease_until = '-infinity' WHERE owner = $1 AND term = $2;

-- take_over --
-- Bump the term of every owner whose lease has expired, and of those whose own taker's lease has. The row lock that
-- this needs is the one that a decision of that owner holds until it is durable.
WITH expired AS (
    SELECT o.owner FROM unanimity.owners AS o LEFT JOIN unanimity.owners AS t ON t.owner = o.taken_by
    WHERE o.lease_until < now() AND o.owner <> $1
      AND (o.taken_by IS NULL OR t.owner IS NULL OR t.lease_until < now())
    ORDER BY o.owner FOR UPDATE OF o SKIP LOCKED
)
UPDATE unanimity.owners AS o SET term = o.term + 1, taken_by = $1 FROM expired WHERE o.owner = expired.owner;

-- taken --
-- The owners that we took over and have not buried yet.
SELECT owner FROM unanimity.owners WHERE taken_by = $1 ORDER BY owner;

-- bury --
-- Forget an owner of whom nothing is left.
DELETE FROM unanimity.owners AS o WHERE o.owner = $1
  AND NOT EXISTS (SELECT FROM unanimity.transactional_ids AS i WHERE i.owner = o.owner)
  AND NOT EXISTS (SELECT FROM unanimity.decisions AS d WHERE d.owner = o.owner AND d.done_at IS NULL)
  AND (
    SELECT s.number FROM unanimity.sagas AS s
    WHERE s.owner = $1 AND s.number >= coalesce((SELECT first FROM unanimity.saga_owners WHERE owner = $1), 0)
      AND (SELECT final FROM unanimity.saga_events AS e WHERE e.number = s.number AND e.final LIMIT 1) IS NULL
    ORDER BY s.number LIMIT 1
  ) IS NULL;

-- prefix --
SELECT prefix FROM unanimity.prefix;

-- claim_ids --
-- New transactional ids, ours before anything is sent on them.
WITH held AS MATERIALIZED (
    SELECT owner FROM unanimity.owners WHERE owner = $3 AND term = $5 FOR SHARE
)
INSERT INTO unanimity.transactional_ids (cluster, transactional_id, owner)
SELECT $1, $2 || '-' || nextval('unanimity.transactional_id_numbers'), held.owner FROM held, generate_series(1, $4)
RETURNING transactional_id;

-- ids_of --
-- The ids of one owner, but those that an unfinished decision names: that is finished first.
SELECT i.cluster, i.transactional_id FROM unanimity.transactional_ids AS i
WHERE i.owner = $1 AND NOT EXISTS (
    SELECT FROM unanimity.decisions AS d
    WHERE d.done_at IS NULL AND d.branches @> jsonb_build_array(
        jsonb_build_object('evidence', jsonb_build_object('transactional_id', i.transactional_id)))
)
ORDER BY 1, 2;

-- release_id --
-- Forget an id on which nothing is open.
DELETE FROM unanimity.transactional_ids WHERE cluster = $1 AND transactional_id = $2;

-- raise_alert --
-- One alert per transaction and kind. Whoever holds the lease ($4, $5) under which it is raised opens one anew that was
-- resolved (how it was is in the audit), and nobody does who holds it no more.
WITH held AS MATERIALIZED (
    SELECT owner FROM unanimity.owners WHERE owner = $4 AND term = $5 FOR SHARE
)
INSERT INTO unanimity.alerts AS a (gid, kind, detail)
SELECT $1, $2, $3 WHERE $4::text IS NULL OR EXISTS (SELECT FROM held)
ON CONFLICT (gid, kind) DO UPDATE SET
    detail = excluded.detail, raised_at = now(), resolved_at = NULL, resolved_by = NULL, resolution = NULL
WHERE $4::text IS NOT NULL AND a.resolved_at IS NOT NULL
RETURNING gid;

-- open_alerts --
-- What nobody has seen to yet.
SELECT gid, kind, detail FROM unanimity.alerts WHERE resolved_at IS NULL ORDER BY raised_at, gid, kind;

-- resolve_alert --
-- Somebody has seen to it; who, and how, is kept with it and in the audit.
WITH resolved AS (
    UPDATE unanimity.alerts SET resolved_at = now(), resolved_by = $3, resolution = $4
    WHERE gid = $1 AND kind = $2 AND resolved_at IS NULL
    RETURNING gid, kind
)
INSERT INTO unanimity.audit (actor, action, gid, reason, detail)
SELECT $3, 'resolve alert', gid, $4, kind FROM resolved RETURNING gid;

-- audit --
-- What an operator did.
INSERT INTO unanimity.audit (actor, action, gid, reason, detail) VALUES ($1, $2, $3, $4, $5);
