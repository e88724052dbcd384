-- Second factors of accounts.

-- One-time codes. An account has at most one secret.
CREATE TABLE totp (
    user_nid   BIGINT NOT NULL PRIMARY KEY,
    secret     TEXT   NOT NULL,                -- sealed, base64url
    last_step  BIGINT NOT NULL,                -- of the newest code that was accepted
    created_ts BIGINT NOT NULL,                -- ms
    used_ts    BIGINT NOT NULL                 -- ms
);

-- WebAuthn credentials.
CREATE TABLE passkeys (
    credential_id TEXT   NOT NULL PRIMARY KEY, -- base64url
    user_nid      BIGINT NOT NULL,
    rp_id         TEXT   NOT NULL,             -- for which it was made
    name          TEXT   NOT NULL,
    public_key    TEXT   NOT NULL,             -- COSE, base64url
    aaguid        TEXT   NOT NULL,             -- model of the authenticator, as it says itself
    transports    TEXT   NOT NULL,             -- separated by commas
    flags         BIGINT NOT NULL,             -- of the authenticator data; bit 2: it has verified the user before
    discoverable  BIGINT NOT NULL,             -- 1: it can sign in without a user name
    sign_count    BIGINT NOT NULL,
    created_ts    BIGINT NOT NULL,             -- ms
    used_ts       BIGINT NOT NULL,             -- ms; 0: never
    regressed_ts  BIGINT NOT NULL DEFAULT 0    -- ms; when sign_count last went back, as after cloning; 0: never
);
CREATE INDEX passkeys_by_user ON passkeys (user_nid, created_ts, credential_id);
CREATE INDEX passkeys_by_rp ON passkeys (rp_id, user_nid);

-- By which authenticators know an account.
CREATE TABLE passkey_handles (
    user_nid BIGINT NOT NULL PRIMARY KEY,
    handle   TEXT   NOT NULL UNIQUE            -- random, base64url
);

-- Begun enrolments and ceremonies. Each can be completed once.
CREATE TABLE factor_challenges (
    hash       TEXT   NOT NULL PRIMARY KEY,    -- of the ID: SHA-256, base64url
    kind       TEXT   NOT NULL,
    user_nid   BIGINT NOT NULL,                -- 0: not known yet
    owner      BIGINT NOT NULL,                -- keyed hash of the user or network, by which they are counted
    data       TEXT   NOT NULL,                -- what the answer is checked against; sealed, if it is a secret
    created_ts BIGINT NOT NULL,                -- ms
    expires_ts BIGINT NOT NULL                 -- ms
);
CREATE INDEX factor_challenges_by_owner ON factor_challenges (owner, created_ts, hash);
CREATE INDEX factor_challenges_by_user ON factor_challenges (user_nid, created_ts, hash);
CREATE INDEX factor_challenges_by_expiry ON factor_challenges (expires_ts);

-- Recovery codes that were not used yet.
CREATE TABLE recovery_codes (
    user_nid   BIGINT NOT NULL,
    hash       TEXT   NOT NULL,                -- SHA-256, base64url
    created_ts BIGINT NOT NULL,                -- ms
    PRIMARY KEY (user_nid, hash)
);

-- Links with which a user can set up a second factor although the policy says that it is too late.
CREATE TABLE enrol_links (
    user_nid   BIGINT NOT NULL PRIMARY KEY,
    hash       TEXT   NOT NULL UNIQUE,         -- of the token: SHA-256, base64url
    made_by    TEXT   NOT NULL,                -- user ID of the administrator; '': on the host
    created_ts BIGINT NOT NULL,                -- ms
    expires_ts BIGINT NOT NULL                 -- ms
);
CREATE INDEX enrol_links_by_expiry ON enrol_links (expires_ts);
