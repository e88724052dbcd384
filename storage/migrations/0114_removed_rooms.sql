-- Rooms that are being removed: nobody finds them any more, and their rows are deleted in small steps.

CREATE TABLE removed_rooms (
    room_nid   {pk},
    room_id    TEXT   NOT NULL,
    servers    TEXT   NOT NULL,      -- JSON array: the other servers that were in it
    removed_ts BIGINT NOT NULL       -- ms
);
CREATE INDEX state_snapshots_by_room ON state_snapshots (room_nid, nid);
