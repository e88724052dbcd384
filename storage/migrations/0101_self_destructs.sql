-- Messages that ask to be destroyed at a time or after everybody has read them (MSC2228).

CREATE TABLE self_destructs (
    position   {pk},                 -- the message
    room_nid   BIGINT NOT NULL,
    sender_nid BIGINT NOT NULL,
    due_ts     BIGINT NOT NULL,      -- ms; when it is destroyed; 2^63-1: not known yet
    after_read BIGINT NOT NULL       -- ms after everybody has read it; -1: that does not matter, or due_ts includes it
);
CREATE INDEX self_destructs_by_time ON self_destructs (due_ts);
CREATE INDEX self_destructs_by_sender ON self_destructs (room_nid, sender_nid, position);
