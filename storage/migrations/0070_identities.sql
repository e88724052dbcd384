-- Accounts of local users at other services that sign them in.
CREATE TABLE upstream_identities (
    issuer     TEXT   NOT NULL,                -- of an OpenID Connect provider; 'ldap' for the directory
    subject    TEXT   NOT NULL,                -- by which the issuer knows the user
    user_nid   BIGINT NOT NULL,
    created_ts BIGINT NOT NULL,                -- ms
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX upstream_identities_by_user ON upstream_identities (user_nid, issuer, subject);
