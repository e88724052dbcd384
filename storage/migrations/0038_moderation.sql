-- What administrators decide about accounts, and guest accounts.
ALTER TABLE accounts ADD COLUMN locked BIGINT NOT NULL DEFAULT 0;      -- 1: nobody can use the account until it is unlocked
ALTER TABLE accounts ADD COLUMN suspended BIGINT NOT NULL DEFAULT 0;   -- 1: the user can read but not act
ALTER TABLE accounts ADD COLUMN guest BIGINT NOT NULL DEFAULT 0;       -- 1: a guest account, without password
ALTER TABLE devices ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';    -- of the last request that seen_ts tells of

CREATE INDEX accounts_guests ON accounts (nid) WHERE guest = 1;

-- What users report to the administrators.
CREATE TABLE reports (
    nid          {pk},
    reporter_nid BIGINT NOT NULL,
    ts           BIGINT NOT NULL,  -- ms
    room_id      TEXT   NOT NULL,  -- of the room or the event; '': a user was reported
    event_id     TEXT   NOT NULL,  -- '': a room or a user was reported
    user_id      TEXT   NOT NULL,  -- the reported user, or the sender of the event; '': a room was reported
    profile      TEXT   NOT NULL,  -- JSON: the profile of a reported local user at that time; '': none
    reason       TEXT   NOT NULL
);
CREATE INDEX reports_by_reporter ON reports (reporter_nid, nid);

-- The reported content: the event, or the events that describe a reported room.
CREATE TABLE report_events (
    report_nid BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    PRIMARY KEY (report_nid, position)
);
CREATE INDEX report_events_by_position ON report_events (position);
