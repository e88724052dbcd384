-- Accounts, their devices and tokens, profiles, and registration tokens.
-- Passwords are stored as argon2id hashes, tokens as SHA-256 hashes, which suffice because tokens are random. Only registration
-- tokens are stored in clear.

CREATE TABLE accounts (
    nid            {pk},                       -- users.nid
    localpart      TEXT   NOT NULL UNIQUE,
    password       TEXT   NOT NULL,            -- argon2id in PHC form; '' if sign-in by password is not possible
    created_ts     BIGINT NOT NULL,            -- ms
    admin          BIGINT NOT NULL DEFAULT 0,
    deactivated_ts BIGINT NOT NULL DEFAULT 0,  -- ms; 0: active. The row stays, so that the localpart is not used again
    leaving        BIGINT NOT NULL DEFAULT 0,  -- 1: deactivated, but has not left every room yet; 2: the same, with erasure
    search         TEXT   NOT NULL             -- user id and display name in lower case, for the user directory
);

CREATE TABLE devices (
    nid          {pk},
    user_nid     BIGINT NOT NULL,
    device_id    TEXT   NOT NULL,
    display_name TEXT,
    created_ts   BIGINT NOT NULL,              -- ms
    seen_ts      BIGINT NOT NULL,              -- ms; written occasionally, not with every request
    seen_addr    TEXT   NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX devices_by_id ON devices (user_nid, device_id);

CREATE TABLE access_tokens (
    nid        {pk},
    hash       TEXT   NOT NULL UNIQUE,         -- SHA-256, base64url
    user_nid   BIGINT NOT NULL,
    device_nid BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL,                -- ms; 0: never
    unused     BIGINT NOT NULL                 -- 1: issued by a refresh; the first use deletes the tokens it replaces
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

-- Single-use tokens that sign in another device (m.login.token).
CREATE TABLE login_tokens (
    hash       TEXT   NOT NULL PRIMARY KEY,
    user_nid   BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL                 -- ms
);

CREATE TABLE registration_tokens (
    token        TEXT   NOT NULL PRIMARY KEY,
    uses_allowed BIGINT,                       -- NULL: any number
    completed    BIGINT NOT NULL DEFAULT 0,    -- number of registrations so far
    expires_ts   BIGINT NOT NULL,              -- ms; 0: never
    created_ts   BIGINT NOT NULL
);

CREATE TABLE profile_fields (
    user_nid BIGINT NOT NULL,
    name     TEXT   NOT NULL,
    value    TEXT   NOT NULL,                  -- JSON
    PRIMARY KEY (user_nid, name)
);
