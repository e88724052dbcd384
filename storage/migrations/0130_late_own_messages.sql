-- Below which order a message of the user was added to the timeline later, as history, so that the mark does not cover it.
ALTER TABLE own_redaction_marks ADD COLUMN late BIGINT NOT NULL DEFAULT 0; -- 0: none was added
