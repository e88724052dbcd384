-- The search index: which words occur in which messages, by numbers that stand for words (rooms/words). The form of the
-- bytes is described in storage/postings.

-- A block has some events of a room that arrived one after the other; no two blocks of a room overlap.
CREATE TABLE search_blocks (
    nid       {pk},
    room_nid  BIGINT NOT NULL,
    first_pos BIGINT NOT NULL,                -- positions of its first and last event
    last_pos  BIGINT NOT NULL,
    docs      BIGINT NOT NULL,                -- events in it, including those that were removed again
    parts     BIGINT NOT NULL                 -- 0: the head has the words too
);
CREATE INDEX search_blocks_by_room ON search_blocks (room_nid, last_pos);

CREATE TABLE search_parts (
    nid  {pk},                                -- block * 2048: the head; + 1 and so on: the parts
-- only: sqlite     data BLOB NOT NULL
-- only: postgres     data BYTEA NOT NULL
);

-- Positions whose events are not in a block yet: above first_pos up to last_pos. The events above the value of "search" in
-- meta are not either.
CREATE TABLE search_gaps (
    first_pos {pk},
    last_pos  BIGINT NOT NULL
);
INSERT INTO search_gaps (first_pos, last_pos) SELECT 0, value FROM meta WHERE name = 'position' AND value > 0;
INSERT INTO meta (name, value) SELECT 'search', value FROM meta WHERE name = 'position';
