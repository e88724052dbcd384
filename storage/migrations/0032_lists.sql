-- Lists that are read page by page.
CREATE INDEX registration_tokens_by_age ON registration_tokens (created_ts, token);
