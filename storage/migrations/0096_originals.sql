-- The originals of redacted events that a legal hold covers. Nobody gets them but an administrator who exports what is held.
CREATE TABLE originals (
    position    {pk},                         -- of the event
    room_nid    BIGINT NOT NULL,
    sender_nid  BIGINT NOT NULL,
    json        TEXT   NOT NULL,
    redacted_ts BIGINT NOT NULL,              -- ms
    body_key    BIGINT NOT NULL DEFAULT 0     -- the key under which json is encrypted; 0: it is not
);
CREATE INDEX originals_by_body_key ON originals (body_key) WHERE body_key > 0;
CREATE INDEX originals_by_sender ON originals (room_nid, sender_nid, position);
