-- Rooms, events, state and what depends on events.
-- {pk} stands for the dialect's 64-bit row key (SQLite: INTEGER PRIMARY KEY, the rowid itself).
-- A nid is the number of something with a long ID. It is allotted from the stream positions and so is unique in all tables.

-- Every local or remote user to whom an event, receipt or device list refers.
CREATE TABLE users (
    nid     {pk},
    user_id TEXT NOT NULL UNIQUE
);

CREATE TABLE rooms (
    nid            {pk},
    room_id        TEXT   NOT NULL UNIQUE,
    version        TEXT   NOT NULL,
    created_ts     BIGINT NOT NULL,           -- ms, this server's clock
    generation     BIGINT NOT NULL,           -- incremented by every write to the room; cached data of an older one is outdated
    snapshot       BIGINT NOT NULL,           -- the state after the forward extremities (state_snapshots.nid)
    extremities    TEXT   NOT NULL,           -- JSON array of positions of the forward extremities
    depth          BIGINT NOT NULL,           -- highest depth among the extremities
    last_order     BIGINT NOT NULL,           -- timeline order of the newest event
    published      BIGINT NOT NULL DEFAULT 0, -- 1: listed in the room directory
    override_min   BIGINT,                    -- retention override by the administrator, ms
    override_max   BIGINT,
    overridden     BIGINT NOT NULL DEFAULT 0, -- 1: the override applies, even if both lifetimes are NULL
    purged_before  BIGINT NOT NULL DEFAULT 0  -- ms; message events with an older effective timestamp are purged for good
);

-- One row for each event that this server stores, two for some (storage.EventByID).
-- The JSON is the canonical PDU as signed (or its redacted form), without unsigned.
CREATE TABLE events (
    position     {pk},                        -- the stream position, in order of arrival
    room_nid     BIGINT NOT NULL,
    ord          BIGINT NOT NULL,             -- order in the timeline: position * 65536 for new events, with gaps for backfill
    id_hash      BIGINT NOT NULL,             -- DB.IDHash(event_id): not unique, compare event_id
    event_id     TEXT   NOT NULL,
    type         TEXT   NOT NULL,
    state_key    TEXT,                        -- NULL for message events
    sender_nid   BIGINT NOT NULL,
    origin_ts    BIGINT NOT NULL,             -- origin_server_ts, ms
    received_ts  BIGINT NOT NULL,             -- this server's clock, ms
    snapshot     BIGINT NOT NULL,             -- the state before the event (state_snapshots.nid); 0 for an outlier
    flags        BIGINT NOT NULL,             -- storage.EventFlags
    redacted_by  BIGINT NOT NULL DEFAULT 0,   -- position of the redaction that took effect
    thread_root  BIGINT NOT NULL DEFAULT 0,   -- position of the thread's root event; 0: main timeline
    push         BIGINT NOT NULL DEFAULT 0,   -- pushrules.Class for recipients without a row in event_push
    device_nid   BIGINT NOT NULL DEFAULT 0,   -- the local device that sent it
    txn_id       TEXT,                        -- the device's transaction ID, for unsigned.transaction_id
    json         TEXT   NOT NULL
);
CREATE INDEX events_by_id ON events (id_hash);
CREATE INDEX events_by_order ON events (room_nid, ord);

-- State as a chain of deltas: a snapshot consists of its own rows and, for other keys, those of prev. Full snapshots (prev 0)
-- follow at bounded distances.
CREATE TABLE state_snapshots (
    nid      {pk},
    room_nid BIGINT NOT NULL,
    prev     BIGINT NOT NULL,                 -- 0: full
    length   BIGINT NOT NULL                  -- snapshots between this one and the last full one
);
CREATE TABLE state_deltas (
    snapshot  BIGINT NOT NULL,
    type      TEXT   NOT NULL,
    state_key TEXT   NOT NULL,
    position  BIGINT NOT NULL,                -- the state event; 0: the key is absent from this snapshot on
    PRIMARY KEY (snapshot, type, state_key)
);

-- The committed current state of each room (the state after its forward extremities).
CREATE TABLE current_state (
    room_nid  BIGINT NOT NULL,
    type      TEXT   NOT NULL,
    state_key TEXT   NOT NULL,
    position  BIGINT NOT NULL,
    PRIMARY KEY (room_nid, type, state_key)
);

-- Current memberships: the rooms of each user, and which users share rooms.
CREATE TABLE memberships (
    user_nid   BIGINT NOT NULL,
    room_nid   BIGINT NOT NULL,
    membership TEXT   NOT NULL,               -- join, invite, leave, ban, knock
    position   BIGINT NOT NULL,               -- the m.room.member event
    joined_pos BIGINT NOT NULL DEFAULT 0,     -- position since which the user has been joined without interruption; 0: not joined
    forgotten  BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_nid, room_nid)
);
CREATE INDEX memberships_by_room ON memberships (room_nid);

-- Idempotency of client requests: the response to a transaction ID, by device and request path. Rows are deleted after two days.
CREATE TABLE client_txns (
    device_nid BIGINT NOT NULL,
    path_hash  BIGINT NOT NULL,               -- DB.IDHash(path + NUL + txnId)
    created_ts BIGINT NOT NULL,
    answer     TEXT   NOT NULL,               -- the event ID; empty if the response is {}
    PRIMARY KEY (device_nid, path_hash)
);
CREATE INDEX client_txns_by_age ON client_txns (created_ts);

-- m.relates_to of committed events, without content. Rows are deleted with the event.
CREATE TABLE relations (
    position     {pk},                        -- the relating event
    room_nid     BIGINT NOT NULL,
    parent_hash  BIGINT NOT NULL,             -- DB.IDHash(parent event id)
    parent_id    TEXT   NOT NULL,
    rel_type     TEXT   NOT NULL,
    type         TEXT   NOT NULL,             -- event type of the relating event
    sender_nid   BIGINT NOT NULL,
    ord          BIGINT NOT NULL
);
CREATE INDEX relations_by_parent ON relations (parent_hash, ord);

CREATE TABLE threads (
    root       {pk},                          -- position of the root event
    room_nid   BIGINT NOT NULL,
    latest     BIGINT NOT NULL                -- ord of the latest reply
);
CREATE INDEX threads_by_room ON threads (room_nid, latest);

-- Users for whom the class of an event (mention, keyword, own rule) differs from events.push.
CREATE TABLE event_push (
    user_nid  BIGINT NOT NULL,
    room_nid  BIGINT NOT NULL,
    position  BIGINT NOT NULL,
    push      BIGINT NOT NULL,                -- pushrules.Class for this user
    PRIMARY KEY (user_nid, room_nid, position)
);
CREATE INDEX event_push_by_event ON event_push (position);

CREATE TABLE receipts (
    room_nid    BIGINT NOT NULL,
    user_nid    BIGINT NOT NULL,
    type        TEXT   NOT NULL,              -- m.read, m.read.private
    thread      TEXT   NOT NULL,              -- '' for unthreaded, main, or the event ID of the thread's root
    event_id    TEXT   NOT NULL,
    ord         BIGINT NOT NULL,              -- timeline order of the event
    ts          BIGINT NOT NULL,              -- ms
    position    BIGINT NOT NULL,              -- stream position of the change
    PRIMARY KEY (room_nid, user_nid, type, thread)
);
CREATE INDEX receipts_by_position ON receipts (room_nid, position);

-- Account data, tags (m.tag) and read markers (m.fully_read); room_nid 0: global.
CREATE TABLE account_data (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    type     TEXT   NOT NULL,
    content  TEXT   NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_nid, room_nid, type)
);
CREATE INDEX account_data_by_position ON account_data (user_nid, position);

CREATE TABLE aliases (
    alias       TEXT   NOT NULL PRIMARY KEY,
    room_nid    BIGINT NOT NULL,
    creator_nid BIGINT NOT NULL
);
CREATE INDEX aliases_by_room ON aliases (room_nid);

CREATE TABLE filters (
    user_nid BIGINT NOT NULL,
    nid      BIGINT NOT NULL,
    json     TEXT   NOT NULL,                 -- verbatim
    PRIMARY KEY (user_nid, nid)
);
