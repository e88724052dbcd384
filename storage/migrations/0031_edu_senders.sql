-- Who sent a message between devices that waits for another server, so that one who floods pushes out nobody else's.
ALTER TABLE edu_outbox ADD COLUMN sender BIGINT NOT NULL DEFAULT 0; -- DB.IDHash(user id); 0: nobody, or not known
ALTER TABLE edu_outbox ADD COLUMN size BIGINT NOT NULL DEFAULT 0;   -- bytes of json
CREATE INDEX edu_outbox_by_sender ON edu_outbox (sender, nid);
