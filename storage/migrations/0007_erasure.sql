-- Users who asked for their messages to be erased. Whoever joins a room after that gets redacted copies.
CREATE TABLE erased_users (
    user_nid {pk},
    position BIGINT NOT NULL                  -- the stream position of the request
);
