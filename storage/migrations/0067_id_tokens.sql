-- The keys that sign ID tokens (OAuth 2.0). A key that was replaced has no private part any more; its public part is
-- published until no token signed by it is valid.
CREATE TABLE oauth_keys (
    id          TEXT   NOT NULL PRIMARY KEY,   -- kid
    private     TEXT   NOT NULL,               -- RSA, PKCS #8, sealed under the key file (secrets); '' after it was replaced
    public      TEXT   NOT NULL,               -- DER, base64
    created_ts  BIGINT NOT NULL,               -- ms
    replaced_ts BIGINT NOT NULL DEFAULT 0      -- ms; 0: the current key
);

ALTER TABLE oauth_codes ADD COLUMN nonce TEXT NOT NULL DEFAULT '';   -- for the ID token
