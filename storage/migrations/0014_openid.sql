-- OpenID tokens, by which users prove their identity to other services. They give no access to this server.

CREATE TABLE openid_tokens (
    hash       TEXT   NOT NULL PRIMARY KEY,   -- SHA-256, base64url
    user_nid   BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL                -- ms
);
CREATE INDEX openid_tokens_by_user ON openid_tokens (user_nid, expires_ts);
CREATE INDEX openid_tokens_by_expiry ON openid_tokens (expires_ts);
