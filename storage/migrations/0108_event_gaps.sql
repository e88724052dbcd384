-- How many events were deleted from each block of positions since the rest of the block was last stored together; only on SQLite
-- (storage/compact.go).
CREATE TABLE event_gaps (
    block   {pk},                             -- positions / 16384
    deleted BIGINT NOT NULL,
    due     BIGINT NOT NULL,                  -- the value of deleted at which it is checked whether storing them together pays
    done    BIGINT NOT NULL DEFAULT 0,        -- the position up to which this has been done; 0: it has not begun
    counted BIGINT NOT NULL DEFAULT 0         -- the value of deleted when it began
);
