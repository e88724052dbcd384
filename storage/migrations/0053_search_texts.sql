-- The user directory compares folded words. accounts.Service writes the texts again when it starts.
UPDATE accounts SET search = '';
