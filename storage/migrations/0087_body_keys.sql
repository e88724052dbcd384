-- The keys in the folder database_keys, under which message bodies are encrypted on PostgreSQL.
CREATE TABLE body_keys (
    nid      {pk},                      -- the number of the key, which is random
    room_nid BIGINT NOT NULL,           -- 0: spare
    kind     BIGINT NOT NULL,           -- storage.keyKind
    day      BIGINT NOT NULL,           -- days since 1970
    state    BIGINT NOT NULL,           -- storage.keyState
    dirty_ts BIGINT NOT NULL DEFAULT 0  -- ms, when something under it was first deleted
);
CREATE INDEX body_keys_by_room ON body_keys (room_nid, day, kind);
CREATE INDEX body_keys_dirty ON body_keys (dirty_ts) WHERE dirty_ts > 0;
CREATE INDEX body_keys_by_state ON body_keys (state) WHERE state <> 1;

-- The key under which a row is encrypted; 0: it is not, as always on SQLite.
ALTER TABLE events ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX events_by_body_key ON events (body_key) WHERE body_key > 0;
ALTER TABLE search_parts ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX search_parts_by_body_key ON search_parts (body_key) WHERE body_key > 0;
ALTER TABLE delayed_events ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX delayed_events_by_body_key ON delayed_events (body_key) WHERE body_key > 0;
ALTER TABLE related_redactions ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX related_redactions_by_body_key ON related_redactions (body_key) WHERE body_key > 0;
ALTER TABLE stripped_state ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX stripped_state_by_body_key ON stripped_state (body_key) WHERE body_key > 0;
