-- Events that cannot be authorized until a key or an auth event arrives (storage.UndecidedEvent).
CREATE INDEX events_undecided ON events (room_nid, position) WHERE flags & 128 = 128;
