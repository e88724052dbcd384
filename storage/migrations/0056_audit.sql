-- The audit log: a chain of hashes. Rows are never deleted; their bodies are, after audit.keep.
CREATE TABLE audit (
    seq       {pk},                   -- 1, 2, 3 and so on
    ts        BIGINT NOT NULL,        -- ms
    kind      TEXT   NOT NULL,        -- what happened, in words of the program
    salt      TEXT   NOT NULL,        -- random, so that nobody can guess a body from its hash; '' without a body
    body      TEXT   NOT NULL,        -- JSON: who, what, from where; '': removed
    body_hash TEXT   NOT NULL,        -- SHA-256 of salt and body, hexadecimal
    hash      TEXT   NOT NULL         -- SHA-256 of the previous hash and of this row, hexadecimal
);
CREATE INDEX audit_bodies ON audit (ts) WHERE body <> '';

-- Up to which row each sink has got a signed checkpoint.
CREATE TABLE audit_sinks (
    sink TEXT   NOT NULL PRIMARY KEY,
    seq  BIGINT NOT NULL
);
