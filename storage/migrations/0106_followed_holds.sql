-- A hold on a room also covers the rooms that replace it or that it replaced: each has a row of its own, which follows
-- the row of the hold that an administrator added. 0: this is such a hold itself.
ALTER TABLE legal_holds ADD COLUMN follows BIGINT NOT NULL DEFAULT 0;
