-- What other servers are still to get. No content stands here: events are named by position, and read when they are sent.

-- Events for other servers; which ones is worked out when they are sent. A row goes once all have it.
CREATE TABLE outbox (
    position {pk},                            -- the event
    room_nid BIGINT NOT NULL
);

CREATE TABLE destinations (
    server        TEXT   NOT NULL PRIMARY KEY,
    delivered     BIGINT NOT NULL,            -- position up to which it has, or stands in destination_rooms, what it is to get
    failures      BIGINT NOT NULL DEFAULT 0,  -- in a row
    failing_since BIGINT NOT NULL DEFAULT 0,  -- ms; 0: it answers
    retry_ts      BIGINT NOT NULL DEFAULT 0,  -- ms
    reached_ts    BIGINT NOT NULL DEFAULT 0   -- ms; when it last answered
);

-- Rooms in which a server has missed so much that it is told of the newest events only, and asks for the rest.
CREATE TABLE destination_rooms (
    server   TEXT   NOT NULL,
    room_nid BIGINT NOT NULL,
    PRIMARY KEY (server, room_nid)
);

-- Ephemeral data that must not be lost: messages between devices, changes of device lists.
CREATE TABLE edu_outbox (
    nid    {pk},
    server TEXT NOT NULL,
    json   TEXT NOT NULL
);
CREATE INDEX edu_outbox_by_server ON edu_outbox (server, nid);
