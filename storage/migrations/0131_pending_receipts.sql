-- Receipts of deletions that have ended. They are signed when what was deleted can be read in no file any more.
CREATE TABLE pending_receipts (
    nid      {pk},
    room_nid BIGINT NOT NULL,               -- 0: what was deleted belongs to no room
    kind     TEXT   NOT NULL,               -- deletions.Kind
    events   BIGINT NOT NULL,
    media    BIGINT NOT NULL,
    since_ts BIGINT NOT NULL,               -- ms; when the first of them was deleted
    until_ts BIGINT NOT NULL,               -- ms; when the last of them was deleted
    about    TEXT   NOT NULL                -- JSON: deletions.Room
);
