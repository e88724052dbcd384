-- For the export of what is stored about a user.
CREATE INDEX related_redactions_by_user ON related_redactions (user_nid, position);
