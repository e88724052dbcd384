-- Rooms with states (state_snapshots) that nothing may need any more: events that referred to them were purged or
-- authorised again, or the graph forked.
CREATE TABLE state_sweeps (
    room_nid  {pk},
    marked_ts BIGINT NOT NULL, -- ms; since when
    begun     BIGINT NOT NULL  -- 1: they are being searched for, and nothing was marked since that began
);
INSERT INTO state_sweeps (room_nid, marked_ts, begun) SELECT nid, 0, 0 FROM rooms;

-- With the state before each event, so that those that events refer to are found without reading the events.
DROP INDEX events_by_order;
CREATE INDEX events_by_order ON events (room_nid, ord, snapshot);
