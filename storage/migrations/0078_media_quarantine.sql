-- Media that an administrator has withdrawn: nobody gets them, and they are not deleted.

CREATE TABLE media_quarantine (
    server   TEXT   NOT NULL,          -- '' for this server
    media_id TEXT   NOT NULL,
    since_ts BIGINT NOT NULL,          -- ms
    PRIMARY KEY (server, media_id)
);

-- Since when (ms) an upload that nothing refers to waits for its deletion; 0: it does not.
ALTER TABLE media ADD COLUMN unused_ts BIGINT NOT NULL DEFAULT 0;
CREATE INDEX media_unused ON media (unused_ts) WHERE unused_ts > 0;
CREATE INDEX media_by_age ON media (created_ts, media_id);
CREATE INDEX remote_media_by_age ON remote_media (fetched_ts, server, media_id);
