-- How many rows of which kinds of data the user had when it was requested that everything be erased: a JSON object. The receipt
-- of the erasure says what went.
ALTER TABLE erasures ADD COLUMN had TEXT NOT NULL DEFAULT '';
