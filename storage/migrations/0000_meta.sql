-- What the database records about itself. Names: "position" (high-water mark of the stream positions),
-- "id_key" (secret: key of DB.IDHash, hex), "server_name" and "signing_key" (secret: the server that the database belongs to),
-- "clock_seen" (when the server last checked its clock, ms), "clock_jumped_from" and "clock_jumped_to" (the latest jump),
-- "migration NNNN_name.sql" (one row for each applied file).
CREATE TABLE IF NOT EXISTS meta (
    name   TEXT   NOT NULL PRIMARY KEY,
    value  BIGINT NOT NULL,
    secret TEXT   NOT NULL DEFAULT ''
);
