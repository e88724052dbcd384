-- 1: a request that is part of an erasure. It covers everything that the user has sent, whenever it arrives, and what is about
-- the user in member events.
ALTER TABLE own_redactions ADD COLUMN everything BIGINT NOT NULL DEFAULT 0;

-- Users who asked that everything be erased: their messages, media and names too. Each erasure is carried out in stages.
CREATE TABLE erasures (
    user_nid     {pk},
    requested_ts BIGINT NOT NULL,           -- ms
    stage        BIGINT NOT NULL,           -- of package erasure
    redacted     BIGINT NOT NULL DEFAULT 0, -- events for which a redaction was sent, and that were removed from this server only,
    removed      BIGINT NOT NULL DEFAULT 0, -- as of the end of the erasure; before, own_redactions has the numbers
    media        BIGINT NOT NULL DEFAULT 0, -- uploads that were deleted in the last stage
    after_media  TEXT   NOT NULL DEFAULT '', -- where the next step of the last stage continues
    finished_ts  BIGINT NOT NULL DEFAULT 0  -- ms; 0: not finished
);
CREATE INDEX erasures_by_end ON erasures (finished_ts, user_nid);
