-- After what time the messages that a user has sent are redacted, if the user has chosen that.
CREATE TABLE message_lifetimes (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL, -- 0: all rooms without a row of their own
    lifetime BIGINT NOT NULL, -- ms
    set_ts   BIGINT NOT NULL, -- ms
    due_ts   BIGINT NOT NULL, -- ms; when the next request to redact messages is made
    PRIMARY KEY (user_nid, room_nid)
);
CREATE INDEX message_lifetimes_by_due ON message_lifetimes (due_ts, user_nid);
