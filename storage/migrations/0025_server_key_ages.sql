-- The oldest answers go beyond a number.
CREATE INDEX server_key_answers_by_age ON server_key_answers (fetched_ts);
