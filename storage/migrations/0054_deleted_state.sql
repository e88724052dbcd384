-- An entry that state resolution deletes from the current state of a room keeps its row, with position 0 and, as changed,
-- the position where it was deleted, so that clients that have the entry are told.
CREATE INDEX current_state_deleted ON current_state (room_nid) WHERE position = 0;
