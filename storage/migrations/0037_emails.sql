-- E-mail addresses of accounts, and the verification of addresses.

CREATE TABLE emails (
    address      TEXT   NOT NULL PRIMARY KEY, -- canonical
    user_nid     BIGINT NOT NULL,
    added_ts     BIGINT NOT NULL,             -- ms
    validated_ts BIGINT NOT NULL              -- ms
);
CREATE INDEX emails_by_user ON emails (user_nid, added_ts);

-- A verification: the owner of an address follows a link, and the client that asked for it then uses the session.
CREATE TABLE email_sessions (
    sid          TEXT   NOT NULL PRIMARY KEY,
    purpose      TEXT   NOT NULL,             -- what the address is verified for
    address      TEXT   NOT NULL,
    secret_hash  TEXT   NOT NULL,             -- of the client's secret: SHA-256, base64url
    send_attempt BIGINT NOT NULL,             -- the last one for which a message was sent
    token_hash   TEXT   NOT NULL,             -- of the token in the newest link: SHA-256, base64url
    next_link    TEXT   NOT NULL,             -- '': none
    wrong        BIGINT NOT NULL,             -- wrong tokens so far
    expires_ts   BIGINT NOT NULL,             -- ms
    validated_ts BIGINT NOT NULL              -- ms; 0: the link has not been followed
);
CREATE UNIQUE INDEX email_sessions_by_client ON email_sessions (address, secret_hash, purpose);
CREATE INDEX email_sessions_by_expiry ON email_sessions (expires_ts);

-- Addresses that users have bound to themselves at an identity server, so that they can be unbound.
CREATE TABLE identity_bindings (
    user_nid  BIGINT NOT NULL,
    medium    TEXT   NOT NULL,
    address   TEXT   NOT NULL,
    id_server TEXT   NOT NULL,
    PRIMARY KEY (user_nid, medium, address, id_server)
);
