-- The sender of an EDU that waits for another server, so that a sender who floods the queue displaces no other sender's messages.
ALTER TABLE edu_outbox ADD COLUMN sender BIGINT NOT NULL DEFAULT 0; -- DB.IDHash(user ID); 0: none or unknown
ALTER TABLE edu_outbox ADD COLUMN size BIGINT NOT NULL DEFAULT 0;   -- bytes of json
CREATE INDEX edu_outbox_by_sender ON edu_outbox (sender, nid);
