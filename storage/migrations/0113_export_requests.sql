-- Exports of accounts that were asked for and have not ended. Their archives do not outlive the process, so a start of the
-- server builds them again.
CREATE TABLE export_requests (
    user_nid      BIGINT NOT NULL,  -- whose account it is
    admin         BIGINT NOT NULL,  -- 1: an administrator has asked for it
    conversations BIGINT NOT NULL,  -- 1: with what others have written
    requested_ts  BIGINT NOT NULL,  -- ms
    attempts      BIGINT NOT NULL,  -- how many starts of the server have begun to build it again
    PRIMARY KEY (user_nid, admin)
);
