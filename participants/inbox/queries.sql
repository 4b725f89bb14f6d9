-- record --
-- Record a message id beside its effect; nothing comes back for one that is recorded already.
INSERT INTO unanimity.inbox (consumer, message_id, fingerprint) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING RETURNING message_id;

-- fingerprint --
-- What was recorded for this id.
SELECT fingerprint FROM unanimity.inbox WHERE consumer = $1 AND message_id = $2;

-- purge --
-- Forget ids that cannot come again, a batch at a time.
DELETE FROM unanimity.inbox WHERE (consumer, message_id) IN (
    SELECT consumer, message_id FROM unanimity.inbox
    WHERE consumer = $1 AND received_at < now() - make_interval(secs => $2) LIMIT $3
);
