-- Lifetimes of what is stored about people beside messages.
DROP INDEX devices_by_address;
CREATE INDEX devices_by_client ON devices (seen_ts) WHERE seen_addr <> '' OR user_agent <> '';

-- 1: what only the user of this closed account could read is deleted.
ALTER TABLE accounts ADD COLUMN emptied BIGINT NOT NULL DEFAULT 0;
CREATE INDEX accounts_to_empty ON accounts (nid) WHERE deactivated_ts > 0 AND emptied = 0;

-- Receipts at events that were purged do not say any more when their users read them.
UPDATE receipts SET ts = 0 WHERE event_id = '';
