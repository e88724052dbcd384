-- Where users are notified besides /sync. meta.pushed is the position up to which all pushers without pending = 1 have been served.

CREATE TABLE pushers (
    nid           {pk},
    user_nid      BIGINT NOT NULL,
    device_nid    BIGINT NOT NULL,            -- the device that the pusher ends with; 0: none (application services)
    kind          TEXT   NOT NULL,            -- http or email
    app_id        TEXT   NOT NULL,
    pushkey       TEXT   NOT NULL,
    app_name      TEXT   NOT NULL,            -- app_display_name
    device_name   TEXT   NOT NULL,            -- device_display_name
    lang          TEXT   NOT NULL,
    profile_tag   TEXT   NOT NULL,
    data          TEXT   NOT NULL,            -- JSON object, verbatim
    enabled       BIGINT NOT NULL,
    no_badge      BIGINT NOT NULL,            -- 1: the client counts unread messages itself (MSC4076)
    updated_ts    BIGINT NOT NULL,            -- ms; when the client last set the pusher
    delivered     BIGINT NOT NULL,            -- position up to which the pusher has been served
    pending       BIGINT NOT NULL DEFAULT 0,  -- 1: events after delivered wait; 0: served up to meta.pushed if that is later
    failures      BIGINT NOT NULL DEFAULT 0,  -- consecutive
    failing_since BIGINT NOT NULL DEFAULT 0,  -- ms; 0: the last attempt succeeded
    retry_ts      BIGINT NOT NULL DEFAULT 0   -- ms
);
CREATE UNIQUE INDEX pushers_by_key ON pushers (app_id, pushkey, user_nid);
CREATE INDEX pushers_by_user ON pushers (user_nid);
CREATE INDEX pushers_by_device ON pushers (device_nid);
