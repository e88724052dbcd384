-- A user's push rules: own rules and what differs from the defaults (push/ruleset.go). No row: the defaults.

CREATE TABLE push_rules (
    user_nid {pk},
    json     TEXT   NOT NULL,
    position BIGINT NOT NULL
);
