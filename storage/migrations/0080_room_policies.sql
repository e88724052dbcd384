-- The retention policy of each room in which messages expire, as the purge last found it, and the one before it, which still applies
-- to the purge of messages from before since_ts. NULL: no limit.
CREATE TABLE room_policies (
    room_nid   {pk},
    min_ms     BIGINT,
    max_ms     BIGINT,
    since_ts   BIGINT NOT NULL,               -- when the policy was shortened
    before_min BIGINT,
    before_max BIGINT
);

-- How many messages were purged on each day, by which an unusual number is noticed.
CREATE TABLE purge_days (
    day        {pk},                          -- days since 1970
    events     BIGINT NOT NULL
);

ALTER TABLE rooms ADD COLUMN override_ts BIGINT NOT NULL DEFAULT 0; -- ms, when the administrator last set or cleared the override
