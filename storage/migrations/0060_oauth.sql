-- The OAuth 2.0 API. Codes and tokens are stored as hashes only (SHA-256, base64url).
CREATE TABLE oauth_clients (
    client_id TEXT   NOT NULL PRIMARY KEY,
    hash      TEXT   NOT NULL UNIQUE,          -- of the metadata: identical metadata has the same client_id
    metadata  TEXT   NOT NULL,                 -- JSON, as it was registered
    used_ts   BIGINT NOT NULL                  -- ms; when it was last registered or used, to the day
);
CREATE INDEX oauth_clients_by_use ON oauth_clients (used_ts, client_id);

-- The sessions that began by OAuth 2.0. A family is all refresh tokens of a session.
CREATE TABLE oauth_sessions (
    device_nid BIGINT NOT NULL PRIMARY KEY,
    client_id  TEXT   NOT NULL,
    scope      TEXT   NOT NULL,
    family     TEXT   NOT NULL UNIQUE,         -- hash of the name that all refresh tokens of the session contain
    generation BIGINT NOT NULL,                -- of the oldest valid refresh token; rises when a new token is first used
    created_ts BIGINT NOT NULL,                -- ms
    used_ts    BIGINT NOT NULL                 -- ms; the last refresh
);
CREATE INDEX oauth_sessions_by_client ON oauth_sessions (client_id);
CREATE INDEX oauth_sessions_by_use ON oauth_sessions (used_ts);
CREATE INDEX oauth_sessions_by_age ON oauth_sessions (created_ts);

CREATE TABLE oauth_codes (
    hash         TEXT   NOT NULL PRIMARY KEY,
    client_id    TEXT   NOT NULL,
    redirect_uri TEXT   NOT NULL,
    challenge    TEXT   NOT NULL,              -- PKCE, S256
    scope        TEXT   NOT NULL,
    device_id    TEXT   NOT NULL,
    user_nid     BIGINT NOT NULL,
    evidence     BIGINT NOT NULL,              -- what the user has shown (gate.Evidence)
    expires_ts   BIGINT NOT NULL,              -- ms; the row is kept longer, so that a replay is noticed
    family       TEXT   NOT NULL DEFAULT ''    -- the session that it gave; '': not used
);
CREATE INDEX oauth_codes_by_expiry ON oauth_codes (expires_ts);
CREATE INDEX oauth_codes_by_user ON oauth_codes (user_nid);

CREATE TABLE oauth_device_codes (
    hash       TEXT   NOT NULL PRIMARY KEY,
    user_code  TEXT   NOT NULL UNIQUE,         -- hash
    client_id  TEXT   NOT NULL,
    scope      TEXT   NOT NULL,
    device_id  TEXT   NOT NULL,
    addr       TEXT   NOT NULL,                -- of the client, shown to the user who approves
    expires_ts BIGINT NOT NULL,                -- ms
    pause      BIGINT NOT NULL,                -- ms between two polls
    polled_ts  BIGINT NOT NULL DEFAULT 0,      -- ms
    state      BIGINT NOT NULL DEFAULT 0,      -- 0: pending, 1: approved, 2: denied
    user_nid   BIGINT NOT NULL DEFAULT 0,      -- who approved
    evidence   BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX oauth_device_codes_by_expiry ON oauth_device_codes (expires_ts);
CREATE INDEX oauth_device_codes_by_user ON oauth_device_codes (user_nid);
