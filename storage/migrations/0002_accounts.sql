-- The people of this server: accounts, their devices and the tokens of both, profiles, registration tokens.
-- Of every secret only a hash is here: argon2id of passwords, SHA-256 of tokens (those are random, so a plain hash is enough).

CREATE TABLE accounts (
    nid            {pk},                       -- users.nid
    localpart      TEXT   NOT NULL UNIQUE,
    password       TEXT   NOT NULL,            -- argon2id in PHC form; '' where nobody can sign in by password
    created_ts     BIGINT NOT NULL,            -- ms
    admin          BIGINT NOT NULL DEFAULT 0,
    deactivated_ts BIGINT NOT NULL DEFAULT 0,  -- ms; the row stays, so that the name is not given to somebody else
    leaving        BIGINT NOT NULL DEFAULT 0,  -- 1: deactivated, but not yet out of every room; 2: and to be erased
    search         TEXT   NOT NULL             -- user id and display name in lower case, for the user directory
);

CREATE TABLE devices (
    nid          {pk},
    user_nid     BIGINT NOT NULL,
    device_id    TEXT   NOT NULL,
    display_name TEXT,
    created_ts   BIGINT NOT NULL,              -- ms
    seen_ts      BIGINT NOT NULL,              -- ms; written now and then, not with every request
    seen_addr    TEXT   NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX devices_by_id ON devices (user_nid, device_id);

CREATE TABLE access_tokens (
    nid        {pk},
    hash       TEXT   NOT NULL UNIQUE,         -- SHA-256, base64url
    user_nid   BIGINT NOT NULL,
    device_nid BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL,                -- ms; 0: never
    unused     BIGINT NOT NULL                 -- 1: came from a refresh; the first use retires what it replaces
);
CREATE INDEX access_tokens_by_device ON access_tokens (device_nid);

CREATE TABLE refresh_tokens (
    nid        {pk},
    hash       TEXT   NOT NULL UNIQUE,
    user_nid   BIGINT NOT NULL,
    device_nid BIGINT NOT NULL,
    unused     BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (device_nid);

-- Single-use tokens that sign a further device in (m.login.token).
CREATE TABLE login_tokens (
    hash       TEXT   NOT NULL PRIMARY KEY,
    user_nid   BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL                 -- ms
);

CREATE TABLE registration_tokens (
    token        TEXT   NOT NULL PRIMARY KEY,
    uses_allowed BIGINT,                       -- NULL: any number
    completed    BIGINT NOT NULL DEFAULT 0,    -- accounts made with it
    expires_ts   BIGINT NOT NULL,              -- ms; 0: never
    created_ts   BIGINT NOT NULL
);

CREATE TABLE profile_fields (
    user_nid BIGINT NOT NULL,
    name     TEXT   NOT NULL,
    value    TEXT   NOT NULL,                  -- JSON
    PRIMARY KEY (user_nid, name)
);
