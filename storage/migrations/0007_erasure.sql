-- Users who requested erasure. Users who join a room after the request get redacted copies of their messages.
CREATE TABLE erased_users (
    user_nid {pk},
    position BIGINT NOT NULL                  -- the stream position of the request
);
