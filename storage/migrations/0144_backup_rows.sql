-- A key in a backup counts 128 bytes more than its texts, as a user could store any number of tiny ones otherwise.
UPDATE backup_versions SET bytes = bytes + 128 * (SELECT count(*) FROM backup_keys k
    WHERE k.user_nid = backup_versions.user_nid AND k.version = backup_versions.version);
-- Rows of deleted backups are only needed for the numbers of new ones.
DELETE FROM backup_versions WHERE deleted = 1
    AND version < (SELECT max(o.version) FROM backup_versions o WHERE o.user_nid = backup_versions.user_nid);
