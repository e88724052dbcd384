-- The session of an OpenID Connect provider from which a session of this server began: hashes of the issuer and of the
-- provider's session ID, with a dot between them. When the provider ends its session, all of these end.
ALTER TABLE web_sessions ADD COLUMN upstream TEXT NOT NULL DEFAULT '';
ALTER TABLE oauth_codes ADD COLUMN upstream TEXT NOT NULL DEFAULT '';
ALTER TABLE oauth_device_codes ADD COLUMN upstream TEXT NOT NULL DEFAULT '';
ALTER TABLE login_tokens ADD COLUMN upstream TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN upstream TEXT NOT NULL DEFAULT '';
CREATE INDEX web_sessions_by_upstream ON web_sessions (upstream) WHERE upstream <> '';
CREATE INDEX oauth_codes_by_upstream ON oauth_codes (upstream) WHERE upstream <> '';
CREATE INDEX oauth_device_codes_by_upstream ON oauth_device_codes (upstream) WHERE upstream <> '';
CREATE INDEX login_tokens_by_upstream ON login_tokens (upstream) WHERE upstream <> '';
CREATE INDEX devices_by_upstream ON devices (upstream) WHERE upstream <> '';

-- What a provider has sent and must not be accepted again: the state of a sign-in, the ID of a logout token.
CREATE TABLE upstream_used (
    hash       TEXT   NOT NULL PRIMARY KEY,    -- SHA-256, base64url
    expires_ts BIGINT NOT NULL                 -- ms
);
CREATE INDEX upstream_used_by_expiry ON upstream_used (expires_ts);
