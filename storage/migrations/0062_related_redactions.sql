-- Redactions with related events (MSC3912) whose related events are not all redacted yet.

CREATE TABLE related_redactions (
    position  {pk},               -- when it was requested; events that arrive later are not redacted
    user_nid  BIGINT NOT NULL,
    room_nid  BIGINT NOT NULL,
    event_id  TEXT   NOT NULL,    -- the event that the others relate to
    rel_types TEXT   NOT NULL,    -- JSON: an array of strings
    reason    TEXT   NOT NULL,
    after_ord BIGINT NOT NULL     -- related events up to this one in the timeline are done
);
CREATE UNIQUE INDEX related_redactions_by_target ON related_redactions (room_nid, event_id, user_nid, rel_types);
