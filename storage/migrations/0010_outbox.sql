-- What is still to be sent to other servers. Events are stored by position and read when they are sent.

-- Events for other servers. The destinations are determined when they are sent. A row is deleted once all have received it.
CREATE TABLE outbox (
    position {pk},                            -- the event
    room_nid BIGINT NOT NULL
);

CREATE TABLE destinations (
    server        TEXT   NOT NULL PRIMARY KEY,
    delivered     BIGINT NOT NULL,            -- position up to which events were delivered or left to destination_rooms
    failures      BIGINT NOT NULL DEFAULT 0,  -- consecutive
    failing_since BIGINT NOT NULL DEFAULT 0,  -- ms; 0: the last attempt succeeded
    retry_ts      BIGINT NOT NULL DEFAULT 0,  -- ms
    reached_ts    BIGINT NOT NULL DEFAULT 0   -- ms; time of the last success
);

-- Rooms in which a server has missed so many events that it is sent the newest ones only and requests the rest.
CREATE TABLE destination_rooms (
    server   TEXT   NOT NULL,
    room_nid BIGINT NOT NULL,
    PRIMARY KEY (server, room_nid)
);

-- EDUs that must not be lost: to-device messages and device list updates.
CREATE TABLE edu_outbox (
    nid    {pk},
    server TEXT NOT NULL,
    json   TEXT NOT NULL
);
CREATE INDEX edu_outbox_by_server ON edu_outbox (server, nid);
