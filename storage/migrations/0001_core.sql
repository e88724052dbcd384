-- Rooms, events, state and what hangs on events.
-- {pk} is the dialect's 64-bit row key (SQLite: INTEGER PRIMARY KEY, the rowid itself).
-- A nid is a short integer name for a long id; it is allotted from the stream positions, so it is unique over all tables.

-- Every user that an event, receipt or device list names, local or remote.
CREATE TABLE users (
    nid     {pk},
    user_id TEXT NOT NULL UNIQUE
);

CREATE TABLE rooms (
    nid            {pk},
    room_id        TEXT   NOT NULL UNIQUE,
    version        TEXT   NOT NULL,
    created_ts     BIGINT NOT NULL,           -- ms, this server's clock
    generation     BIGINT NOT NULL,           -- grows with every committed write of the room; memory older than this is stale
    snapshot       BIGINT NOT NULL,           -- state after the forward extremities (state_snapshots.nid)
    extremities    TEXT   NOT NULL,           -- JSON array of positions of the forward extremities
    depth          BIGINT NOT NULL,           -- highest depth among the extremities
    last_order     BIGINT NOT NULL,           -- timeline order of the newest event
    published      BIGINT NOT NULL DEFAULT 0, -- 1: listed in the room directory
    override_min   BIGINT,                    -- retention override by the administrator, ms
    override_max   BIGINT,
    overridden     BIGINT NOT NULL DEFAULT 0, -- 1: the override stands, even where both lifetimes are NULL
    purged_before  BIGINT NOT NULL DEFAULT 0  -- message events with an older effective timestamp (ms) are gone and never come back
);

-- One row per event known to this server. The JSON is the canonical PDU as signed (or its redacted form), without unsigned.
CREATE TABLE events (
    position     {pk},                        -- arrival; the stream position
    room_nid     BIGINT NOT NULL,
    ord          BIGINT NOT NULL,             -- timeline order in the room: position * 65536 for live events, gaps for backfill
    id_hash      BIGINT NOT NULL,             -- DB.IDHash(event_id): not unique, compare event_id
    event_id     TEXT   NOT NULL,
    type         TEXT   NOT NULL,
    state_key    TEXT,                        -- NULL for message events
    sender_nid   BIGINT NOT NULL,
    origin_ts    BIGINT NOT NULL,             -- origin_server_ts, ms
    received_ts  BIGINT NOT NULL,             -- this server's clock, ms
    snapshot     BIGINT NOT NULL,             -- state before the event (state_snapshots.nid); 0 for an outlier
    flags        BIGINT NOT NULL,             -- storage.EventFlags
    redacted_by  BIGINT NOT NULL DEFAULT 0,   -- position of the redaction that took effect
    thread_root  BIGINT NOT NULL DEFAULT 0,   -- position of the thread's root event, 0: main timeline
    push         BIGINT NOT NULL DEFAULT 0,   -- storage.PushClass under the default rules, for a recipient who is not singled out
    device_nid   BIGINT NOT NULL DEFAULT 0,   -- the local device that sent it
    txn_id       TEXT,                        -- and its transaction id, for unsigned.transaction_id
    json         TEXT   NOT NULL
);
CREATE INDEX events_by_id ON events (id_hash);
CREATE INDEX events_by_order ON events (room_nid, ord);

-- State as a chain of deltas: a snapshot is its own rows over those of prev; full snapshots (prev 0) stand at bounded distance.
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
    position  BIGINT NOT NULL,                -- the state event; 0: the key is absent from here on
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

-- Current membership by user: the rooms of a user, and who shares rooms with whom.
CREATE TABLE memberships (
    user_nid   BIGINT NOT NULL,
    room_nid   BIGINT NOT NULL,
    membership TEXT   NOT NULL,               -- join, invite, leave, ban, knock
    position   BIGINT NOT NULL,               -- the m.room.member event
    joined_pos BIGINT NOT NULL DEFAULT 0,     -- position since which the membership is join without a break; 0: not joined
    forgotten  BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_nid, room_nid)
);
CREATE INDEX memberships_by_room ON memberships (room_nid);

-- Idempotency of client requests: the answer of a transaction id, per device and request path. Rows older than two days go.
CREATE TABLE client_txns (
    device_nid BIGINT NOT NULL,
    path_hash  BIGINT NOT NULL,               -- DB.IDHash(path + NUL + txnId)
    created_ts BIGINT NOT NULL,
    answer     TEXT   NOT NULL,               -- the event id; empty where the answer is {}
    PRIMARY KEY (device_nid, path_hash)
);
CREATE INDEX client_txns_by_age ON client_txns (created_ts);

-- m.relates_to of committed events (content-free; goes with the event).
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

-- Who is singled out by an event (mention, keyword, own rule): differs from events.push for this user.
CREATE TABLE event_push (
    user_nid  BIGINT NOT NULL,
    room_nid  BIGINT NOT NULL,
    position  BIGINT NOT NULL,
    push      BIGINT NOT NULL,                -- storage.PushClass for this user
    PRIMARY KEY (user_nid, room_nid, position)
);
CREATE INDEX event_push_by_event ON event_push (position);

CREATE TABLE receipts (
    room_nid    BIGINT NOT NULL,
    user_nid    BIGINT NOT NULL,
    type        TEXT   NOT NULL,              -- m.read, m.read.private
    thread      TEXT   NOT NULL,              -- '': unthreaded; main; or the root's event id
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
