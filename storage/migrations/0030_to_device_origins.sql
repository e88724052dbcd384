-- What a message between devices counts against, so that one who floods a queue pushes out nobody else's. Those that wait already
-- count as one sender's.
ALTER TABLE to_device ADD COLUMN origin BIGINT NOT NULL DEFAULT 0;   -- DB.IDHash(server of the sender, or a local sender's user id)
ALTER TABLE to_device ADD COLUMN sender BIGINT NOT NULL DEFAULT 0;   -- DB.IDHash(user id)
ALTER TABLE to_device ADD COLUMN stranger BIGINT NOT NULL DEFAULT 0; -- 1: the sender shared no room with the receiver
ALTER TABLE to_device ADD COLUMN size BIGINT NOT NULL DEFAULT 0;     -- bytes of json
UPDATE to_device SET size = length(json);
