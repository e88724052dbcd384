-- Requests to redact the messages that a user has sent. Each is carried out in steps, first counting the messages and then
-- redacting them.
CREATE TABLE own_redactions (
    position    {pk},               -- when it was requested; messages that arrive later are not redacted
    user_nid    BIGINT NOT NULL,
    room_nid    BIGINT NOT NULL,    -- 0: all rooms in which the user is or was
    before_ts   BIGINT NOT NULL,    -- ms; only messages from before this time are redacted
    reason      TEXT   NOT NULL,
    daily       BIGINT NOT NULL,    -- 1: made because of the user's setting
    counted     BIGINT NOT NULL,    -- 1: expected is final
    at_room     BIGINT NOT NULL,    -- where the next step continues
    at_ord      BIGINT NOT NULL,    -- -1: at the beginning of the room after at_room
    expected    BIGINT NOT NULL,    -- messages that were found when counting
    redacted    BIGINT NOT NULL,    -- messages for which a redaction was sent
    removed     BIGINT NOT NULL,    -- messages that were removed from this server only
    finished_ts BIGINT NOT NULL     -- ms; 0: not finished
);
CREATE INDEX own_redactions_by_user ON own_redactions (user_nid, position);
CREATE INDEX own_redactions_by_end ON own_redactions (finished_ts, position);

-- Up to which order all messages of a user in a room are redacted, so that the next request continues there.
CREATE TABLE own_redaction_marks (
    user_nid BIGINT NOT NULL,
    room_nid BIGINT NOT NULL,
    ord      BIGINT NOT NULL,
    PRIMARY KEY (user_nid, room_nid)
);
