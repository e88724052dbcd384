-- End-to-end encryption: public keys, encrypted backups and to-device messages. The server cannot read encrypted data. The JSON
-- of keys is stored as the client sent it, including unknown fields.

CREATE TABLE device_keys (
    device_nid {pk},
    user_nid   BIGINT NOT NULL,
    json       TEXT   NOT NULL
);
CREATE INDEX device_keys_by_user ON device_keys (user_nid);

-- Keys are claimed oldest first: nid is higher for later uploads.
CREATE TABLE one_time_keys (
    nid        {pk},
    device_nid BIGINT NOT NULL,
    algorithm  TEXT   NOT NULL,
    key_id     TEXT   NOT NULL,
    json       TEXT   NOT NULL
);
CREATE UNIQUE INDEX one_time_keys_by_id ON one_time_keys (device_nid, algorithm, key_id);
CREATE INDEX one_time_keys_by_age ON one_time_keys (device_nid, algorithm, nid);

CREATE TABLE fallback_keys (
    device_nid BIGINT NOT NULL,
    algorithm  TEXT   NOT NULL,
    key_id     TEXT   NOT NULL,
    json       TEXT   NOT NULL,
    used       BIGINT NOT NULL,               -- 1: was claimed
    PRIMARY KEY (device_nid, algorithm)
);

CREATE TABLE cross_signing_keys (
    user_nid BIGINT NOT NULL,
    usage    TEXT   NOT NULL,                 -- master, self_signing, user_signing
    json     TEXT   NOT NULL,
    PRIMARY KEY (user_nid, usage)
);

-- Signatures that were uploaded separately from the key (/keys/signatures/upload).
CREATE TABLE key_signatures (
    target_nid BIGINT NOT NULL,               -- user whose key is signed
    target_key TEXT   NOT NULL,               -- device ID, or the public part of a cross-signing key
    signer_nid BIGINT NOT NULL,
    key_id     TEXT   NOT NULL,               -- ed25519:… of the signer
    signature  TEXT   NOT NULL,
    PRIMARY KEY (target_nid, target_key, signer_nid, key_id)
);

CREATE TABLE backup_versions (
    user_nid  BIGINT NOT NULL,
    version   BIGINT NOT NULL,
    algorithm TEXT   NOT NULL,
    auth_data TEXT   NOT NULL,
    etag      BIGINT NOT NULL,                -- incremented by every change of the keys
    deleted   BIGINT NOT NULL DEFAULT 0,      -- deleted rows stay, so that a version number is not used again
    PRIMARY KEY (user_nid, version)
);

CREATE TABLE backup_keys (
    user_nid            BIGINT NOT NULL,
    version             BIGINT NOT NULL,
    room_id             TEXT   NOT NULL,
    session_id          TEXT   NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count     BIGINT NOT NULL,
    is_verified         BIGINT NOT NULL,
    session_data        TEXT   NOT NULL,
    PRIMARY KEY (user_nid, version, room_id, session_id)
);

CREATE TABLE to_device (
    position   {pk},
    device_nid BIGINT NOT NULL,
    json       TEXT   NOT NULL                -- {"content":…,"sender":…,"type":…}
);
CREATE INDEX to_device_by_device ON to_device (device_nid, position);

-- The newest change of each user's device list.
CREATE TABLE device_list_changes (
    user_nid {pk},
    position BIGINT NOT NULL
);
CREATE INDEX device_list_changes_by_position ON device_list_changes (position);

-- Signatures of other users' keys. The signer's devices must query the target's keys again; nobody else is notified.
CREATE TABLE key_signature_changes (
    signer_nid BIGINT NOT NULL,
    target_nid BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    PRIMARY KEY (signer_nid, target_nid)
);

-- MSC3814: a device for each user that receives messages while no other device is signed in.
CREATE TABLE dehydrated_devices (
    user_nid    {pk},
    device_nid  BIGINT NOT NULL,
    device_id   TEXT   NOT NULL,
    device_data TEXT   NOT NULL
);
