-- Rooms that were joined with partial state.

-- The join whose preceding state is partial; 0: the state is complete.
ALTER TABLE rooms ADD COLUMN partial_join BIGINT NOT NULL DEFAULT 0;

-- A JSON array of the servers in the room, from the response to the join. The server that sent the response comes first.
ALTER TABLE rooms ADD COLUMN partial_servers TEXT NOT NULL DEFAULT '[]';

-- The position at which the state became complete; 0: it always was.
ALTER TABLE rooms ADD COLUMN completed BIGINT NOT NULL DEFAULT 0;

CREATE INDEX rooms_partial ON rooms (nid) WHERE partial_join > 0;
