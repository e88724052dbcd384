-- For events by time (timestamp_to_event).
CREATE INDEX events_by_time ON events (room_nid, origin_ts, ord) WHERE ord > 0;
