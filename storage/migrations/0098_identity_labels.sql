-- The name of the user at the other service, as the service stated it when the identity was linked.
ALTER TABLE upstream_identities ADD COLUMN label TEXT NOT NULL DEFAULT '';
