-- Media IDs of this server. The bytes are files, named by blob (media/store.go).

CREATE TABLE media (
    media_id     TEXT   NOT NULL PRIMARY KEY,
    user_nid     BIGINT NOT NULL,             -- who uploaded it or reserved the ID
    blob         TEXT   NOT NULL,             -- '' until the upload is complete
    content_type TEXT   NOT NULL,
    filename     TEXT   NOT NULL,
    size         BIGINT NOT NULL,             -- bytes
    created_ts   BIGINT NOT NULL,             -- ms; time of the reservation or the upload
    expires_ts   BIGINT NOT NULL              -- ms; when a reservation without an upload expires; 0 once uploaded
);
CREATE INDEX media_by_blob ON media (blob);
CREATE INDEX media_by_user ON media (user_nid);
