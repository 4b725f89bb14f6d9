"""How often each message may be on Kafka: once, and once more for each relay that lost the row's shard meanwhile.

A relay delivers at least once, so a bound on the copies would be a guess. The database itself keeps the evidence: from
when to when a row was the relays' to deliver, and when a shard was taken over from a relay that had not given it back
(it was killed, or slept for longer than its lease): it may have sent the row and not recorded that it had.
"""

from collections.abc import Mapping

from examples.social_post.observer import Observer

EVIDENCE = """
CREATE TABLE row_lives (message_id text PRIMARY KEY, shard smallint, since timestamptz, until timestamptz);
CREATE TABLE shard_losses (shard smallint, relay text, at timestamptz);

CREATE FUNCTION row_is_ready() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    INSERT INTO row_lives VALUES (NEW.message_id, NEW.shard, clock_timestamp(), 'infinity') ON CONFLICT DO NOTHING;
    RETURN NULL;
END$$;
CREATE FUNCTION row_is_gone() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    UPDATE row_lives SET until = clock_timestamp() WHERE message_id = OLD.message_id;
    RETURN NULL;
END$$;
CREATE FUNCTION shard_is_lost() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    INSERT INTO shard_losses VALUES (OLD.shard, OLD.relay, clock_timestamp());
    RETURN NULL;
END$$;
CREATE TRIGGER row_is_ready AFTER INSERT OR UPDATE ON unanimity.outbox
    FOR EACH ROW WHEN (NOT NEW.waiting) EXECUTE FUNCTION row_is_ready();
CREATE TRIGGER row_is_gone AFTER DELETE ON unanimity.outbox FOR EACH ROW EXECUTE FUNCTION row_is_gone();
CREATE TRIGGER shard_is_lost AFTER UPDATE ON unanimity.outbox_shards
    FOR EACH ROW WHEN (NEW.relay <> OLD.relay) EXECUTE FUNCTION shard_is_lost();
"""
LOSSES = """
SELECT message_id, count(*) AS losses FROM row_lives JOIN shard_losses USING (shard)
WHERE at BETWEEN since AND until GROUP BY 1
"""


async def unexplained(seen: Observer, repeats: Mapping[str, int]) -> dict[str, int]:
    """Messages of which there are more copies than relays had reason to send, and how many more.

    *repeats* are those that the test itself brought about, by author: it told a relay that it had not delivered.
    """
    losses = {row["message_id"]: row["losses"] for row in await seen.fetch(LOSSES)}
    found = {}
    for author, copies in seen.copies.items():
        for message, count in copies.items():
            most = 1 + losses.get(message, 0) + repeats.get(author, 0)
            if count > most:
                found[f"{author}: {message}"] = count - most
    return found
