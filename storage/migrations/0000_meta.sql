-- What the database says of itself. Names: "position" (high-water mark of the stream positions),
-- "id_key" (secret: key of DB.IDHash, hex), "server_name" and "signing_key" (secret: whose database it is),
-- "clock_seen" (when the server last looked at its clock, ms), "clock_jumped_from" and "clock_jumped_to" (the latest jump),
-- "migration NNNN_name.sql" (one row per file that was applied).
CREATE TABLE IF NOT EXISTS meta (
    name   TEXT   NOT NULL PRIMARY KEY,
    value  BIGINT NOT NULL,
    secret TEXT   NOT NULL DEFAULT ''
);
