-- Previews of web pages, and the images in them, which are rows of media that have a blob and expire.

CREATE TABLE url_previews (
    url_hash   TEXT   NOT NULL,             -- of the URL that was asked for: SHA-256, base64url
    fetched_ts BIGINT NOT NULL,             -- ms
    expires_ts BIGINT NOT NULL,             -- ms
    json       TEXT   NOT NULL,             -- the response; '' if there is no preview
    PRIMARY KEY (url_hash, fetched_ts)
);
CREATE INDEX url_previews_by_expiry ON url_previews (expires_ts);

CREATE INDEX media_by_expiry ON media (expires_ts) WHERE expires_ts > 0;
