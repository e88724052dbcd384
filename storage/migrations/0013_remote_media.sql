-- Files of other servers that were fetched for local users. The bytes are files, named by blob as for media.

CREATE TABLE remote_media (
    server       TEXT   NOT NULL,
    media_id     TEXT   NOT NULL,
    blob         TEXT   NOT NULL,
    content_type TEXT   NOT NULL,
    filename     TEXT   NOT NULL,
    size         BIGINT NOT NULL,             -- bytes
    fetched_ts   BIGINT NOT NULL,             -- ms
    used_ts      BIGINT NOT NULL,             -- ms; time of the last request, accurate to an hour
    PRIMARY KEY (server, media_id)
);
CREATE INDEX remote_media_by_blob ON remote_media (blob);
CREATE INDEX remote_media_by_use ON remote_media (used_ts);
