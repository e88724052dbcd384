-- A user's push rules: own rules and changes to the default rules (pushrules/ruleset.go). Users without a row have the defaults.

CREATE TABLE push_rules (
    user_nid {pk},
    json     TEXT   NOT NULL,
    position BIGINT NOT NULL
);
