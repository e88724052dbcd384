-- What administrators decide about accounts.
ALTER TABLE accounts ADD COLUMN locked BIGINT NOT NULL DEFAULT 0;      -- 1: nobody can use the account until it is unlocked
ALTER TABLE accounts ADD COLUMN suspended BIGINT NOT NULL DEFAULT 0;   -- 1: the user can read but not act
ALTER TABLE devices ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';    -- of the last request that seen_ts tells of
