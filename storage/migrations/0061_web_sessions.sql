-- Browsers in which a user has signed in to the web pages.
CREATE TABLE web_sessions (
    hash       TEXT   NOT NULL PRIMARY KEY,    -- of the cookie (SHA-256, base64url)
    user_nid   BIGINT NOT NULL,
    evidence   BIGINT NOT NULL,                -- what the user has shown (gate.Evidence)
    expires_ts BIGINT NOT NULL                 -- ms
);
CREATE INDEX web_sessions_by_user ON web_sessions (user_nid);
CREATE INDEX web_sessions_by_expiry ON web_sessions (expires_ts);
