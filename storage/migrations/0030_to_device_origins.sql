-- The sender of a to-device message, so that a sender who floods a queue displaces no other sender's messages. Messages that
-- were queued before count as those of one sender.
ALTER TABLE to_device ADD COLUMN origin BIGINT NOT NULL DEFAULT 0;   -- DB.IDHash(server of the sender, or a local sender's user id)
ALTER TABLE to_device ADD COLUMN sender BIGINT NOT NULL DEFAULT 0;   -- DB.IDHash(user id)
ALTER TABLE to_device ADD COLUMN stranger BIGINT NOT NULL DEFAULT 0; -- 1: the sender shared no room with the receiver
ALTER TABLE to_device ADD COLUMN size BIGINT NOT NULL DEFAULT 0;     -- bytes of json
UPDATE to_device SET size = length(json);
