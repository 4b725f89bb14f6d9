-- The inbox: ids of messages whose effect is in this database, recorded in the same transaction as the effect.

CREATE TABLE unanimity.inbox (
    consumer    text NOT NULL,
    message_id  text NOT NULL,
    fingerprint bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);

CREATE INDEX inbox_received ON unanimity.inbox (received_at);
