-- Local users who joined a room and whose devices are to be announced to the other servers in it.

CREATE TABLE device_tellings (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    partial  BIGINT NOT NULL,   -- 1: the list of servers in the room may be incomplete
    PRIMARY KEY (user_nid, room_nid)
);
