-- take --
-- Take locks that are free, or ours already; who has them then. In one order, so that takers never wait in a circle.
-- (Changing nothing of a row that stands locks it, and answers with it as it is by then.)
INSERT INTO unanimity.semantic_locks AS l (resource, gid)
SELECT resource, $2 FROM unnest(CAST($1 AS text[])) AS r (resource) ORDER BY resource COLLATE "C"
ON CONFLICT (resource) DO UPDATE SET gid = l.gid
RETURNING resource, gid;

-- free --
-- Let go of some of them, or of all.
DELETE FROM unanimity.semantic_locks WHERE gid = $1 AND (resource = ANY(CAST($2 AS text[])) OR CAST($3 AS boolean))
RETURNING resource;

-- held --
-- Who has what, and since when.
SELECT resource, gid, taken_at FROM unanimity.semantic_locks
WHERE CAST($1 AS text) IS NULL OR gid = CAST($1 AS text)
ORDER BY taken_at, resource LIMIT $2;

-- wait --
-- Say that we wait; again with each attempt. Those who gave up say nothing, so whoever adds a wait takes old ones away.
-- (Not those that somebody writes at this moment: sagas that wait for each other here would be a circle of their own.)
WITH given_up AS (
    SELECT gid, resource FROM unanimity.semantic_waits
    WHERE gid <> $2 AND asked_at <= now() - make_interval(secs => CAST($3 AS float8))
    LIMIT 1000 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM unanimity.semantic_waits AS w USING given_up AS g WHERE w.gid = g.gid AND w.resource = g.resource
)
INSERT INTO unanimity.semantic_waits AS w (gid, resource)
SELECT $2, resource FROM unnest(CAST($1 AS text[])) AS r (resource) ORDER BY resource COLLATE "C"
ON CONFLICT (gid, resource) DO UPDATE SET asked_at = now()
RETURNING resource;

-- stop_waiting --
-- We have them, or need them no more.
DELETE FROM unanimity.semantic_waits WHERE gid = $1 AND (resource = ANY(CAST($2 AS text[])) OR CAST($3 AS boolean))
RETURNING resource;

-- edges --
-- Who waits for whom.
SELECT DISTINCT w.gid AS waiter, l.gid AS holder
FROM unanimity.semantic_waits AS w JOIN unanimity.semantic_locks AS l USING (resource)
WHERE w.gid <> l.gid AND w.asked_at > now() - make_interval(secs => CAST($1 AS float8));
