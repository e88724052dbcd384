-- Unread counts read the replies of a room apart from its main timeline, which is read only back to what the user has
-- read. Most events are not in a thread, so most are not in this index.
CREATE INDEX events_in_threads ON events (room_nid, ord) WHERE thread_root <> 0;
