-- The senders of purged events, because redactions of these may still arrive and clients may still show the events.
CREATE TABLE purged_events (
    room_nid   BIGINT NOT NULL,
    id_hash    BIGINT NOT NULL,               -- DB.IDHash(event id)
    sender_nid BIGINT NOT NULL,
    purged_ts  BIGINT NOT NULL,               -- ms
    PRIMARY KEY (room_nid, id_hash)
);
CREATE INDEX purged_events_by_time ON purged_events (purged_ts);

-- Redactions that did not take effect are withheld from clients from now on (64, storage.WithheldEvent): those whose target has not
-- arrived, and those that were not valid.
UPDATE events SET flags = flags + 64
WHERE type = 'm.room.redaction' AND state_key IS NULL AND position NOT IN (SELECT redacted_by FROM events WHERE redacted_by <> 0);
