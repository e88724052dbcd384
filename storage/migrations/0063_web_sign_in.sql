-- Signing in to the web pages in several steps.
ALTER TABLE web_sessions ADD COLUMN pending BIGINT NOT NULL DEFAULT 0;     -- 1: a second factor is missing
ALTER TABLE web_sessions ADD COLUMN created_ts BIGINT NOT NULL DEFAULT 0;  -- ms
ALTER TABLE web_sessions ADD COLUMN first_ts BIGINT NOT NULL DEFAULT 0;    -- ms; when the user last showed a first factor
ALTER TABLE web_sessions ADD COLUMN second_ts BIGINT NOT NULL DEFAULT 0;   -- ms; the same of a second factor
ALTER TABLE web_sessions ADD COLUMN later BIGINT NOT NULL DEFAULT 0;       -- 1: the user sets up a second factor another time
