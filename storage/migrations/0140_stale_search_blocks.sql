-- How often events were purged whose words a block of the search index still has. The words go at the end of the run.
ALTER TABLE search_blocks ADD COLUMN stale BIGINT NOT NULL DEFAULT 0;
CREATE INDEX search_blocks_stale ON search_blocks (nid) WHERE stale > 0;
