-- Events before the join by which this server entered a room are history.

-- The position of that join; 0: this server created the room.
ALTER TABLE rooms ADD COLUMN entered BIGINT NOT NULL DEFAULT 0;

-- 1: the room may have been damaged by events from before the join that were treated as new; it is to be checked.
ALTER TABLE rooms ADD COLUMN recheck BIGINT NOT NULL DEFAULT 0;
UPDATE rooms SET recheck = 1 WHERE min_depth > 0;
CREATE INDEX rooms_recheck ON rooms (nid) WHERE recheck > 0;
