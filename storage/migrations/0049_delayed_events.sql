-- Events that local users send at a later time.

CREATE TABLE delayed_events (
    delay_id     TEXT   NOT NULL PRIMARY KEY,
    user_nid     BIGINT NOT NULL,
    room_nid     BIGINT NOT NULL,
    type         TEXT   NOT NULL,
    state_key    TEXT,                        -- NULL: not a state event
    content      TEXT   NOT NULL,             -- '' once the event is sent or cancelled
    origin_ts    BIGINT NOT NULL,             -- ms; 0: when it is sent
    delay        BIGINT NOT NULL,             -- ms
    scheduled_ts BIGINT NOT NULL,             -- ms; when the delay began
    send_ts      BIGINT NOT NULL,             -- ms; when to send it next
    position     BIGINT NOT NULL,             -- when it was first scheduled
    finalised_ts BIGINT NOT NULL DEFAULT 0,   -- ms; 0: still scheduled
    event_id     TEXT   NOT NULL DEFAULT '',  -- of the event, if it was sent
    error        TEXT   NOT NULL DEFAULT ''   -- JSON; why it could not be sent
);
CREATE INDEX delayed_events_by_time ON delayed_events (send_ts) WHERE finalised_ts = 0;
CREATE INDEX delayed_events_by_user ON delayed_events (user_nid, finalised_ts, send_ts);
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_ts) WHERE finalised_ts > 0;
