-- The encrypted files of media, and their keys. Files from before this table are named by their blob, and not encrypted.

CREATE TABLE media_files (
    blob       TEXT NOT NULL PRIMARY KEY, -- as in media and remote_media
    name       TEXT NOT NULL,             -- of the file; random
    sealed_key TEXT NOT NULL              -- the file's key, encrypted under a key outside the database
);
CREATE UNIQUE INDEX media_files_by_name ON media_files (name);
