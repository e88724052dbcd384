-- How far each application service has got.
CREATE TABLE appservices (
    id         TEXT   NOT NULL PRIMARY KEY, -- of its registration
    position   BIGINT NOT NULL,             -- stream position up to which it has the events that concern it
    devices    BIGINT NOT NULL,             -- the same for changes of devices
    txn        TEXT   NOT NULL,             -- ID of the transaction that it has not confirmed; '': none
    pending    TEXT   NOT NULL,             -- JSON: what that transaction is about, in positions
    failures   BIGINT NOT NULL,             -- consecutive failed deliveries
    failing_ts BIGINT NOT NULL,             -- ms; when they began; 0: there are none
    retry_ts   BIGINT NOT NULL,             -- ms; when to try next
    reached_ts BIGINT NOT NULL              -- ms; when it last confirmed a transaction; 0: never
);
