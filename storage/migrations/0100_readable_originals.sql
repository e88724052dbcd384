-- Originals are also kept for retention.redacted after a redaction. Then moderators may read them (readable = 1). Those from before
-- are there only because of a legal hold.
ALTER TABLE originals ADD COLUMN readable BIGINT NOT NULL DEFAULT 0;
DROP INDEX originals_by_sender;
CREATE INDEX originals_by_sender ON originals (room_nid, sender_nid, position, redacted_ts, readable);
