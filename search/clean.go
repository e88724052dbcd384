package search

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ebb/storage"
	"ebb/storage/pace"
	"ebb/storage/postings"
)

// A purge marks the blocks that have words of the messages that it deletes as stale, and Clean removes the words at its
// end: each block is edited once, not once for each of the many writes of a purge. Until then no search finds the
// messages. The mark is stored in the same write that deletes them, so what a killed server leaves is cleaned by the
// next run.

const (
	// cleanParts is how many parts of a block one write replaces, at most.
	cleanParts = 256
	// survivorsPage is how many events are read at a time to find those that a purge has left.
	survivorsPage = 256
)

// cleaning is a stale block, and what it is without the words of purged events.
type cleaning struct {
	block  storage.SearchBlock
	before []byte // the head as it was read
	head   []byte // the new head; nil: no event is left
	parts  []postings.Part
}

// Clean removes the words of purged events from all blocks, and reports whether there were any. The work takes place
// outside the writes, which only store the result.
func Clean(ctx context.Context, db *storage.DB) (some bool, err error) {
	at := db.Pace(cleanParts)
	for {
		var c cleaning
		var found bool
		err := db.Read(ctx, func(tx *storage.Tx) (err error) {
			c.block, found, err = tx.StaleSearchBlock()
			if err == nil && found {
				err = c.prepare(tx)
			}
			return err
		})
		if err != nil || !found {
			return some, err
		}
		some = true
		if err := c.write(ctx, db, at); err != nil && !errors.Is(err, storage.ErrSearchChanged) {
			return some, fmt.Errorf("clean block %d of the search index: %w", c.block.NID, err)
		}
	}
}

// prepare reads a stale block, and determines what it is without the purged events.
func (c *cleaning) prepare(tx *storage.Tx) error {
	block, err := tx.ReadSearchBlock(c.block)
	if err != nil {
		return err
	}
	docs, _, err := postings.Docs(block.Head)
	if err != nil {
		return err
	}
	shown, err := c.survivors(tx, docs)
	if err != nil {
		return err
	}
	c.before = block.Head
	c.head, c.parts, _, err = block.Without(func(pos int64) bool { return !shown[storage.Pos(pos)] })
	return err
}

// survivors returns the positions of those docs whose events are still shown. After a purge these are few or none, so
// it lists the events of the room in the range of the docs, from an index, rather than to look for each doc.
func (c *cleaning) survivors(tx *storage.Tx, docs []postings.Doc) (shown map[storage.Pos]bool, err error) {
	// The order of an edit is that of the original, so it does not tell where the edit is.
	moved := slices.DeleteFunc(slices.Clone(docs), func(d postings.Doc) bool { return d.Order == 0 })
	if shown, err = shownOf(tx, moved); err != nil {
		return nil, err
	}
	after, last := orderOf(c.block.First)-1, orderOf(c.block.Last)
	for seen := 0; after < last; {
		if seen > 2*len(docs) {
			return shownOf(tx, docs) // most events of the range are not in the block
		}
		page, err := tx.PurgeCandidates(c.block.Room, after, survivorsPage)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if !e.Redacted && e.Flags&storage.HiddenEvent == 0 {
				shown[e.Position] = true
			}
		}
		if seen += len(page); len(page) < survivorsPage {
			break
		}
		after = page[len(page)-1].Order
	}
	return shown, nil
}

// shownOf returns the positions of those docs whose events are still shown.
func shownOf(tx *storage.Tx, docs []postings.Doc) (map[storage.Pos]bool, error) {
	positions := make([]storage.Pos, len(docs))
	for i := range docs {
		positions[i] = storage.Pos(docs[i].Pos)
	}
	return tx.StillShown(positions)
}

// write stores the result, in steps of a size that at determines.
func (c *cleaning) write(ctx context.Context, db *storage.DB, at *pace.Pace) error {
	for last := false; !last; {
		n := at.Step()
		part := c.parts[:min(n, len(c.parts))]
		c.parts = c.parts[len(part):]
		last = len(c.parts) == 0
		err := db.Enqueue(storage.Write{Rests: true, Do: func(tx *storage.Tx) error {
			defer at.Measure()()
			return tx.CleanSearchBlock(c.block, c.before, part, c.head, last)
		}}).Wait(ctx)
		if err != nil {
			return err
		}
		at.Rest(ctx, 1, len(part) == n)
	}
	return nil
}
