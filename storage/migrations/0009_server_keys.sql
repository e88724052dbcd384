-- The signing keys of other servers, each under the name of the server that was asked about.
CREATE TABLE server_keys (
    server     TEXT   NOT NULL,
    key_id     TEXT   NOT NULL,               -- ed25519:…
    public_key TEXT   NOT NULL,               -- unpadded base64
    good_until BIGINT NOT NULL,               -- ms: signatures up to then are good
    expired    BIGINT NOT NULL DEFAULT 0,     -- 1: the server uses it no more, good_until is when it ceased to
    PRIMARY KEY (server, key_id)
);
-- What a server last said of its keys, as it signed it, for others who ask here.
CREATE TABLE server_key_answers (
    server     TEXT   NOT NULL PRIMARY KEY,
    json       TEXT   NOT NULL,
    good_until BIGINT NOT NULL,               -- ms
    fetched_ts BIGINT NOT NULL
);
