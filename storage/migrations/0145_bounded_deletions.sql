-- Deleted devices whose messages, keys and connections are still to be deleted, in small writes.
CREATE TABLE deleted_devices (
    device_nid {pk},
    user_nid   BIGINT NOT NULL
);
-- What a sender has in the queues of all devices. The index has every column of the query, because the columns of a row follow
-- its text, which would have to be read.
CREATE INDEX to_device_by_sender ON to_device (origin, stranger, sender, device_nid, position, size);

-- For erasing a user without reading whole tables.
CREATE INDEX receipts_by_user ON receipts (user_nid);
CREATE INDEX key_signatures_by_signer ON key_signatures (signer_nid);
CREATE INDEX key_signature_changes_by_target ON key_signature_changes (target_nid);
