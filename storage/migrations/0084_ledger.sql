-- What was deleted or revoked and has still to be written to the ledger outside the database (backup.ledger).
CREATE TABLE ledger_queue (
    seq   {pk},                   -- a position
    ts    BIGINT NOT NULL,        -- ms
    kind  TEXT   NOT NULL,
    ref   BIGINT NOT NULL,        -- what it is about: the position of an event, or the number of a room, user or device
    value BIGINT NOT NULL,
    name  TEXT   NOT NULL         -- what has no number: a media ID, the ID of a passkey, the hash of a recovery code
);
