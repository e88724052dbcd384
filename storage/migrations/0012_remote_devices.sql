-- Devices of remote users, and the device list updates for other servers.

-- The stream ID of a local user's newest m.device_list_update; 0: there is none.
ALTER TABLE device_list_changes ADD COLUMN stream_id BIGINT NOT NULL DEFAULT 0;

-- Changes that are still to be sent to other servers. The servers and the keys are determined when the EDU is built.
CREATE TABLE device_list_outbox (
    stream_id {pk},                           -- the stream position of the change
    user_nid  BIGINT NOT NULL,
    device_id TEXT   NOT NULL,                -- '': the cross-signing keys
    prev_id   BIGINT NOT NULL                 -- the user's previous update; 0: this is the first
);

-- Remote users whose devices are cached. Their cross-signing keys are in cross_signing_keys.
CREATE TABLE remote_device_lists (
    user_nid  {pk},
    stream_id BIGINT NOT NULL,                -- of the newest update in the cache; -1: unknown
    asked     BIGINT NOT NULL,                -- stream position when the list was requested; 0: it must be requested again
    retry_ts  BIGINT NOT NULL DEFAULT 0,      -- ms; when to request it next
    failures  BIGINT NOT NULL DEFAULT 0       -- failed requests since the last success
);
CREATE INDEX remote_device_lists_to_ask ON remote_device_lists (asked, retry_ts);

CREATE TABLE remote_devices (
    user_nid     BIGINT NOT NULL,
    device_id    TEXT   NOT NULL,
    display_name TEXT   NOT NULL,             -- '': none
    json         TEXT   NOT NULL,             -- the identity keys, verbatim
    PRIMARY KEY (user_nid, device_id)
);

-- The m.direct_to_device EDUs that were delivered, so that none is delivered twice.
CREATE TABLE received_messages (
    id_hash     {pk},                         -- DB.IDHash(origin + NUL + message_id)
    received_ts BIGINT NOT NULL               -- ms
);
CREATE INDEX received_messages_by_age ON received_messages (received_ts);
