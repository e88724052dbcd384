-- The size of a key backup, so that a user's backups can be bounded without reading them.
ALTER TABLE backup_versions ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;  -- of the keys: IDs and session_data
UPDATE backup_versions SET bytes = (SELECT coalesce(sum(octet_length(k.room_id) + octet_length(k.session_id) + octet_length(k.session_data)), 0)
    FROM backup_keys k WHERE k.user_nid = backup_versions.user_nid AND k.version = backup_versions.version);
