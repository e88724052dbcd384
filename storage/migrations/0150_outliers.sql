-- With state from before this server joined a room. A purge looks for what newer state has replaced, if the configuration says so.
CREATE INDEX events_outliers ON events (room_nid, position) WHERE ord = 0;
