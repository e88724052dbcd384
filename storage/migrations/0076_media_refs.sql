-- What refers to which media, so that a file is deleted with the last message that shows it.

CREATE TABLE media_refs (
    owner    BIGINT NOT NULL,  -- the position of an event or a delayed event, or the number of a user
    kind     BIGINT NOT NULL,  -- storage.MediaRefKind
    part     TEXT   NOT NULL,  -- the name of a profile field; room and type of account data; otherwise ''
    server   TEXT   NOT NULL,  -- '' for this server
    media_id TEXT   NOT NULL,
    PRIMARY KEY (owner, kind, part, server, media_id)
);
CREATE INDEX media_refs_by_media ON media_refs (media_id, server, kind, owner);

-- Files that no row refers to any more and that are still to be removed from disk.
CREATE TABLE media_unlinks (
    name TEXT NOT NULL PRIMARY KEY
);

-- Files of other servers whose last reference was deleted, so that they are not fetched again.
CREATE TABLE media_gone (
    id_hash BIGINT NOT NULL PRIMARY KEY, -- of the server name and the media ID
    gone_ts BIGINT NOT NULL              -- ms
);
CREATE INDEX media_gone_by_time ON media_gone (gone_ts);
