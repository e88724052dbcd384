-- The IDs of purged events, several in a row: a row for each event took 80 bytes, of which two indexes in random order were most. What
-- purged_events has is not copied: it only matters for redactions of events that were purged within the last month.
CREATE TABLE purged_ids (
    nid       {pk},                           -- a position
    room_nid  BIGINT NOT NULL,
    bucket    BIGINT NOT NULL,                -- storage.purgedBucket of the hashes in data
    purged_ts BIGINT NOT NULL,                -- ms
-- only: sqlite     data BLOB NOT NULL -- storage.appendPurged
-- only: postgres   data BYTEA NOT NULL
);
CREATE INDEX purged_ids_by_room ON purged_ids (room_nid, bucket);
CREATE INDEX purged_ids_by_time ON purged_ids (purged_ts);
DROP TABLE purged_events;

-- Messages that were rejected have no order; a purge finds them by this index. The condition does not hold for a message that is sent.
CREATE INDEX events_unplaced ON events (room_nid, position) WHERE ord = 0 AND state_key IS NULL;
