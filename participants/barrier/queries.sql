-- place --
-- Record a delivery; then all that is known of its step. A key that is in neither was recorded while this waited for it.
WITH placed AS (
    INSERT INTO unanimity.barrier (scope, gid, step, direction, state, term, fingerprint)
    VALUES ($1, $2, $3, $4, $5, $6, CAST($7 AS bytea))
    ON CONFLICT DO NOTHING
    RETURNING direction, state, term, fingerprint, result
)
SELECT true AS placed, direction, state, term, fingerprint, result, CAST(0 AS float8) AS age_s FROM placed
UNION ALL
SELECT false, direction, state, term, fingerprint, result, CAST(extract(epoch FROM now() - recorded_at) AS float8)
FROM unanimity.barrier
WHERE scope = $1 AND gid = $2 AND step = $3;

-- place_undo --
-- The same for an undo, which also stands where what it undoes would: so that this can not come later.
WITH placed AS (
    INSERT INTO unanimity.barrier (scope, gid, step, direction, state, term, fingerprint)
    VALUES ($1, $2, $3, $8, 'blocked', $6, NULL), ($1, $2, $3, $4, $5, $6, CAST($7 AS bytea))
    ON CONFLICT DO NOTHING
    RETURNING direction, state, term, fingerprint, result
)
SELECT true AS placed, direction, state, term, fingerprint, result, CAST(0 AS float8) AS age_s FROM placed
UNION ALL
SELECT false, direction, state, term, fingerprint, result, CAST(extract(epoch FROM now() - recorded_at) AS float8)
FROM unanimity.barrier
WHERE scope = $1 AND gid = $2 AND step = $3;

-- unplace --
-- Take back what was recorded just now, where its transaction is so old that its step may have been forgotten; how old.
-- (The transaction's own start would not do: what is missing may have been forgotten since then.)
WITH age AS (SELECT CAST(extract(epoch FROM statement_timestamp()) AS float8) - CAST($5 AS float8) AS seconds)
DELETE FROM unanimity.barrier USING age
WHERE scope = $1 AND gid = $2 AND step = $3 AND direction = ANY(CAST($4 AS text[])) AND seconds > CAST($6 AS float8)
RETURNING seconds;

-- look --
-- All that is known of a step.
SELECT false AS placed, direction, state, term, fingerprint, result,
CAST(extract(epoch FROM now() - recorded_at) AS float8) AS age_s
FROM unanimity.barrier
WHERE scope = $1 AND gid = $2 AND step = $3;

-- move --
-- Bring a record from one state to another; nothing comes back where another delivery was faster.
UPDATE unanimity.barrier SET state = $6, recorded_at = now()
WHERE scope = $1 AND gid = $2 AND step = $3 AND direction = $4 AND state = $5
RETURNING direction;

-- refresh --
-- Remember a step from now on, and who has a lower term than this is refused from now on. Nothing comes back where the
-- record was forgotten meanwhile, or a higher term was here. (What is recorded at now() itself is this transaction's own.)
UPDATE unanimity.barrier SET term = $5, recorded_at = greatest(recorded_at, now() - interval '1 microsecond')
WHERE scope = $1 AND gid = $2 AND step = $3 AND direction = $4 AND term <= $5
RETURNING term;

-- keep --
-- What the delivery answered, for its duplicates, and how it ended. An effect that was committed earlier stays as it is
-- told: only a marker is of an earlier transaction. (All of one transaction is recorded at its start.)
UPDATE unanimity.barrier SET state = $6, result = CAST($7 AS bytea), recorded_at = now()
WHERE scope = $1 AND gid = $2 AND step = $3 AND direction = $4 AND state = $5
AND (state = 'intended' OR recorded_at = now())
RETURNING direction;

-- purge --
-- Forget steps of which nothing is young and nothing is open, a batch at a time and each as a whole. A record that this
-- had to wait for may be young by then: a condition on the record itself is looked at again, and that of a join is not.
WITH found AS (
    SELECT scope, gid, step FROM unanimity.barrier AS b
    WHERE scope = $1 AND recorded_at < now() - make_interval(secs => $2) AND NOT EXISTS (
        SELECT FROM unanimity.barrier AS other
        WHERE other.scope = b.scope AND other.gid = b.gid AND other.step = b.step
        AND (other.recorded_at >= now() - make_interval(secs => $2) OR other.state = 'intended')
    )
    LIMIT $3
), old AS (SELECT DISTINCT scope, gid, step FROM found)
DELETE FROM unanimity.barrier AS b USING old
WHERE b.scope = old.scope AND b.gid = old.gid AND b.step = old.step
AND b.recorded_at < now() - make_interval(secs => $2)
RETURNING b.gid;
