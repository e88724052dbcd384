-- Lists that are read page by page.
CREATE INDEX rooms_published ON rooms (nid) WHERE published = 1;
CREATE INDEX registration_tokens_by_age ON registration_tokens (created_ts, token);
