-- Requests of clients that their users approve on the account page (user-interactive authentication without a password).
CREATE TABLE approvals (
    session     TEXT   NOT NULL PRIMARY KEY,   -- ID of the session of user-interactive authentication
    user_nid    BIGINT NOT NULL,
    device_nid  BIGINT NOT NULL,               -- that sent the request
    operation   TEXT   NOT NULL,               -- its ID in the specification
    target      TEXT   NOT NULL,               -- the parameter in the path of the request
    digest      TEXT   NOT NULL,               -- of the body of the request (SHA-256, base64url)
    created_ts  BIGINT NOT NULL,               -- ms
    expires_ts  BIGINT NOT NULL,               -- ms
    approved_ts BIGINT NOT NULL DEFAULT 0      -- ms; 0: not yet
);
CREATE UNIQUE INDEX approvals_by_request ON approvals (device_nid, operation, target, digest);
CREATE INDEX approvals_by_user ON approvals (user_nid, created_ts, session);
CREATE INDEX approvals_by_expiry ON approvals (expires_ts);
