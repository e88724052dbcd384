-- More texts that are encrypted on PostgreSQL: the key under which a row is encrypted (0: it is not), and the number by
-- which an encrypted text belongs to its row.
ALTER TABLE media_files ADD COLUMN nid BIGINT NOT NULL DEFAULT 0;
ALTER TABLE media_files ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX media_files_by_body_key ON media_files (body_key) WHERE body_key > 0;
ALTER TABLE url_previews ADD COLUMN nid BIGINT NOT NULL DEFAULT 0;
ALTER TABLE url_previews ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX url_previews_by_body_key ON url_previews (body_key) WHERE body_key > 0;
ALTER TABLE reports ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX reports_by_body_key ON reports (body_key) WHERE body_key > 0;
ALTER TABLE own_redactions ADD COLUMN body_key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX own_redactions_by_body_key ON own_redactions (body_key) WHERE body_key > 0;
