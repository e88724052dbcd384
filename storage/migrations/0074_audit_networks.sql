-- From which networks the acts in the audit log came. They are removed earlier than the bodies, which have their hashes.
ALTER TABLE audit ADD COLUMN networks TEXT NOT NULL DEFAULT '';      -- JSON; '': none, or removed
ALTER TABLE audit ADD COLUMN networks_salt TEXT NOT NULL DEFAULT ''; -- random; '' without networks
CREATE INDEX audit_networks ON audit (ts) WHERE networks <> '';

-- Addresses of devices are removed when they are as old.
CREATE INDEX devices_by_address ON devices (seen_ts) WHERE seen_addr <> '';
