-- Events that reach everybody in the room while they are sticky (MSC4354), even past the end of a timeline.

CREATE TABLE sticky_events (
    position   {pk},                 -- the event
    room_nid   BIGINT NOT NULL,
    sender_nid BIGINT NOT NULL,
    local      BIGINT NOT NULL,      -- 1: of a user of this server, which sends it to servers that join
    refused    BIGINT NOT NULL,      -- 1: soft-failed by the current state, so that clients get it only if that changes
    expires_ts BIGINT NOT NULL       -- ms; when it ceases to be sticky
);
CREATE INDEX sticky_events_by_room ON sticky_events (room_nid, position);
CREATE INDEX sticky_events_by_time ON sticky_events (expires_ts);

ALTER TABLE delayed_events ADD COLUMN sticky_ms BIGINT; -- for how long the event is sticky; NULL: it is not
