-- Rooms that were joined before most of their members were known.

-- The join before which the state is not whole; 0: it is.
ALTER TABLE rooms ADD COLUMN partial_join BIGINT NOT NULL DEFAULT 0;

-- A JSON array of the servers in the room, as the one said through which it was joined, which stands first.
ALTER TABLE rooms ADD COLUMN partial_servers TEXT NOT NULL DEFAULT '[]';

-- The position at which the state became whole; 0: it always was.
ALTER TABLE rooms ADD COLUMN completed BIGINT NOT NULL DEFAULT 0;

CREATE INDEX rooms_partial ON rooms (nid) WHERE partial_join > 0;
