-- What somebody has shown to sign in, and who needs a second factor.
ALTER TABLE devices ADD COLUMN path TEXT NOT NULL DEFAULT '';            -- on which the session began (gate.Path); '': before this was recorded
ALTER TABLE devices ADD COLUMN evidence BIGINT NOT NULL DEFAULT 0;       -- what was shown then or since (gate.Evidence)
ALTER TABLE login_tokens ADD COLUMN evidence BIGINT NOT NULL DEFAULT 0;  -- of the session that made the token
ALTER TABLE accounts ADD COLUMN mfa TEXT NOT NULL DEFAULT '';            -- gate.Mode of this account; '': that of the server
ALTER TABLE accounts ADD COLUMN mfa_since_ts BIGINT NOT NULL DEFAULT 0;  -- ms; when mfa became 'required', 0 otherwise

CREATE INDEX accounts_mfa ON accounts (nid) WHERE mfa = 'required';

-- Machine tokens (ebb token issued).
CREATE INDEX devices_of_machines ON devices (nid) WHERE path = 'machine';
