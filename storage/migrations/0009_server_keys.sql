-- The signing keys of other servers.
CREATE TABLE server_keys (
    server     TEXT   NOT NULL,
    key_id     TEXT   NOT NULL,               -- ed25519:…
    public_key TEXT   NOT NULL,               -- unpadded base64
    good_until BIGINT NOT NULL,               -- ms; signatures made until then are valid
    expired    BIGINT NOT NULL DEFAULT 0,     -- 1: no longer in use; good_until is the time of its last use
    PRIMARY KEY (server, key_id)
);
-- The latest signed response of each server that lists its keys, for servers that request it from this one.
CREATE TABLE server_key_answers (
    server     TEXT   NOT NULL PRIMARY KEY,
    json       TEXT   NOT NULL,
    good_until BIGINT NOT NULL,               -- ms
    fetched_ts BIGINT NOT NULL
);
