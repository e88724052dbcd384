-- The number of stored responses is bounded; the oldest are deleted.
CREATE INDEX server_key_answers_by_age ON server_key_answers (fetched_ts);
