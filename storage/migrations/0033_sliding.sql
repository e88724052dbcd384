-- What a client of sliding sync has. A connection belongs to a device; its states are the one that the client has
-- confirmed and the one sent last.
CREATE TABLE sliding_connections (
    nid        {pk},
    user_nid   BIGINT NOT NULL,
    device_nid BIGINT NOT NULL,
    conn_id    TEXT   NOT NULL,
    used_ts    BIGINT NOT NULL                -- ms, last use; up to a day late
);
CREATE INDEX sliding_connections_by_device ON sliding_connections (user_nid, device_nid);
CREATE INDEX sliding_connections_by_age ON sliding_connections (used_ts);
CREATE TABLE sliding_states (
    connection BIGINT NOT NULL,
    serial     BIGINT NOT NULL,
    state      TEXT   NOT NULL,               -- base64 of what feed writes: numbers of rooms, positions, required_state
    PRIMARY KEY (connection, serial)
);
