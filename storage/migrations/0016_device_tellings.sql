-- Users of this server who came into a room: other servers in it are to be told of their devices.

CREATE TABLE device_tellings (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    partial  BIGINT NOT NULL,   -- 1: it is not known for sure which servers are in the room
    PRIMARY KEY (user_nid, room_nid)
);
