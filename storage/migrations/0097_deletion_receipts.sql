-- What deletions still need a receipt: a purge of a room in several transactions gets one receipt when it has ended.
CREATE TABLE deletion_counts (
    room_nid BIGINT NOT NULL,
    kind     TEXT   NOT NULL,               -- deletions.Kind
    events   BIGINT NOT NULL,
    media    BIGINT NOT NULL,
    since_ts BIGINT NOT NULL,               -- ms; when the first of them was deleted
    PRIMARY KEY (room_nid, kind)
);

-- Signed receipts: how many events and media of a room were deleted. Each has the hash of the one before.
CREATE TABLE deletion_receipts (
    number   {pk},                          -- from 1
    room_nid BIGINT NOT NULL,
    ts       BIGINT NOT NULL,               -- ms
    digest   TEXT   NOT NULL,               -- SHA-256 of note, hexadecimal
    note     TEXT   NOT NULL                -- the text and its signature
);
CREATE INDEX deletion_receipts_by_room ON deletion_receipts (room_nid, number);

-- The keys that sign receipts.
CREATE TABLE deletion_keys (
    nid         {pk},
    private     TEXT   NOT NULL,            -- encrypted (package secrets); '': the key was replaced
    verifier    TEXT   NOT NULL UNIQUE,     -- its public part
    created_ts  BIGINT NOT NULL,            -- ms
    replaced_ts BIGINT NOT NULL DEFAULT 0
);
