-- Rooms that are shared with other servers.

-- The position since which an entry is current, if state resolution made an older event current. 0: the event's own position.
ALTER TABLE current_state ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE memberships ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;

-- The depth of the join by which this server entered the room. Earlier events are fetched as history only.
ALTER TABLE rooms ADD COLUMN min_depth BIGINT NOT NULL DEFAULT 0;

-- The stripped state that another server sent with an invite or a knock.
CREATE TABLE stripped_state (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    json     TEXT   NOT NULL,                 -- array of stripped events
    PRIMARY KEY (user_nid, room_nid)
);

-- Events that stored events refer to as predecessors and that are not stored: the starting points for backfilling history.
CREATE TABLE backward_edges (
    room_nid   BIGINT NOT NULL,
    missing_id TEXT   NOT NULL,
    ord        BIGINT NOT NULL,               -- timeline order of the oldest event that refers to it
    PRIMARY KEY (room_nid, missing_id)
);
CREATE INDEX backward_edges_by_order ON backward_edges (room_nid, ord);

-- Redactions that arrived before the event that they redact.
CREATE TABLE pending_redactions (
    room_nid  BIGINT NOT NULL,
    target_id TEXT   NOT NULL,
    position  BIGINT NOT NULL,                -- the m.room.redaction
    PRIMARY KEY (room_nid, target_id, position)
);
