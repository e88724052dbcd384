-- Rooms that are shared with other servers.

-- Since when an entry is current, where that is not the position of its event: state resolution made an older one current.
ALTER TABLE current_state ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE memberships ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;

-- The depth of the event with which this server came into the room: what lies before is asked for as history only.
ALTER TABLE rooms ADD COLUMN min_depth BIGINT NOT NULL DEFAULT 0;

-- What a room shows of itself to a user whom it does not let in yet, as another server told it with an invite or a knock.
CREATE TABLE stripped_state (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    json     TEXT   NOT NULL,                 -- array of stripped events
    PRIMARY KEY (user_nid, room_nid)
);

-- Events that others name as the ones before them and that are not stored: where history can be asked for.
CREATE TABLE backward_edges (
    room_nid   BIGINT NOT NULL,
    missing_id TEXT   NOT NULL,
    ord        BIGINT NOT NULL,               -- timeline order of the oldest event that names it
    PRIMARY KEY (room_nid, missing_id)
);
CREATE INDEX backward_edges_by_order ON backward_edges (room_nid, ord);

-- Redactions that came before what they redact.
CREATE TABLE pending_redactions (
    room_nid  BIGINT NOT NULL,
    target_id TEXT   NOT NULL,
    position  BIGINT NOT NULL,                -- the m.room.redaction
    PRIMARY KEY (room_nid, target_id, position)
);
