-- Devices of users of other servers, and what other servers are told of the devices of this one.

-- The stream id of the newest m.device_list_update of a user of this server; 0: none was made.
ALTER TABLE device_list_changes ADD COLUMN stream_id BIGINT NOT NULL DEFAULT 0;

-- Changes that other servers are still to be told of. To which ones, and with which keys, is found out when it is done.
CREATE TABLE device_list_outbox (
    stream_id {pk},                           -- the stream position of the change
    user_nid  BIGINT NOT NULL,
    device_id TEXT   NOT NULL,                -- '': the cross-signing keys
    prev_id   BIGINT NOT NULL                 -- the user's update before; 0: this is the first
);

-- Whose devices are cached. The cross-signing keys are in cross_signing_keys.
CREATE TABLE remote_device_lists (
    user_nid  {pk},
    stream_id BIGINT NOT NULL,                -- of the newest update that the cache has; -1: not known
    asked     BIGINT NOT NULL,                -- stream position when the list was asked for; 0: it must be asked for anew
    retry_ts  BIGINT NOT NULL DEFAULT 0,      -- ms; when to ask next
    failures  BIGINT NOT NULL DEFAULT 0       -- of asking, since it last went well
);
CREATE INDEX remote_device_lists_to_ask ON remote_device_lists (asked, retry_ts);

CREATE TABLE remote_devices (
    user_nid     BIGINT NOT NULL,
    device_id    TEXT   NOT NULL,
    display_name TEXT   NOT NULL,             -- '': none
    json         TEXT   NOT NULL,             -- the identity keys, verbatim
    PRIMARY KEY (user_nid, device_id)
);

-- Which m.direct_to_device were delivered, so that none is twice.
CREATE TABLE received_messages (
    id_hash     {pk},                         -- DB.IDHash(origin + NUL + message_id)
    received_ts BIGINT NOT NULL               -- ms
);
CREATE INDEX received_messages_by_age ON received_messages (received_ts);
