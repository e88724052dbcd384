-- Media ids of this server. The bytes are files, named by blob (media/store.go).

CREATE TABLE media (
    media_id     TEXT   NOT NULL PRIMARY KEY,
    user_nid     BIGINT NOT NULL,             -- who uploaded it, or reserved the id
    blob         TEXT   NOT NULL,             -- '' until the upload is there
    content_type TEXT   NOT NULL,
    filename     TEXT   NOT NULL,
    size         BIGINT NOT NULL,             -- bytes
    created_ts   BIGINT NOT NULL,             -- ms; of the reservation or the upload
    expires_ts   BIGINT NOT NULL              -- ms; a reservation without upload is void from here on; 0 once uploaded
);
CREATE INDEX media_by_blob ON media (blob);
CREATE INDEX media_by_user ON media (user_nid);
