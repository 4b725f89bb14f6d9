-- What all ids of this journal begin with. Each journal has its own, so that two applications with journals of their own
-- do not take what is the other's, on a server that both use, for something that their journal does not know of.

CREATE TABLE unanimity.prefix (
    prefix text NOT NULL,
    single boolean PRIMARY KEY DEFAULT true CHECK (single)
);

-- A journal that was in use already keeps what its ids begin with.
INSERT INTO unanimity.prefix (prefix)
SELECT CASE
    WHEN (SELECT is_called FROM unanimity.transactional_id_numbers)
        OR EXISTS (SELECT FROM unanimity.owners) OR EXISTS (SELECT FROM unanimity.decisions) THEN 'unan'
    ELSE 'unan' || left(gen_random_uuid()::text, 8)
END;
