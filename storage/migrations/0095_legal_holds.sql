-- Legal holds on rooms and users: while one stands, nothing of what it covers is deleted.
CREATE TABLE legal_holds (
    nid       {pk},
    room_nid  BIGINT NOT NULL,               -- the room; 0: the hold is on a user
    user_nid  BIGINT NOT NULL,               -- the user, whose messages in all rooms are held; 0: the hold is on a room
    reason    TEXT   NOT NULL,
    added_by  TEXT   NOT NULL,
    added_ts  BIGINT NOT NULL,               -- ms, like all times here
    review_ts BIGINT NOT NULL,               -- when somebody must decide whether it is still needed
    asked_by  TEXT   NOT NULL DEFAULT '',    -- the administrator who asked for it to be lifted; '': nobody
    asked_ts  BIGINT NOT NULL DEFAULT 0,
    lifted_by TEXT   NOT NULL DEFAULT '',    -- the administrator who confirmed that
    lifted_ts BIGINT NOT NULL DEFAULT 0      -- 0: it stands
);

-- Events that would have been purged if a hold did not cover them (storage.KeptEvent).
CREATE INDEX events_kept ON events (room_nid, sender_nid, position) WHERE flags & 512 = 512;
