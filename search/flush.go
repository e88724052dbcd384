package search

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/postings"
)

// Flush moves the tail into blocks.
func (x *Index) Flush(ctx context.Context) error {
	x.flushing.Lock()
	defer x.flushing.Unlock()
	t := x.current()
	if err := x.store(ctx, t.docs); err != nil {
		return err
	}
	err := x.db.Write(ctx, func(tx *storage.Tx) error { return tx.SetSearchedUpTo(t.upTo) })
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.tail = tail{after: t.upTo, upTo: x.tail.upTo, docs: slices.Clone(x.tail.docs[len(t.docs):]), terms: x.tail.terms - t.terms}
	return nil
}

// fill indexes a part of a gap. It returns false if there are no gaps.
func (x *Index) fill(ctx context.Context) (more bool, err error) {
	x.flushing.Lock()
	defer x.flushing.Unlock()
	var gaps []storage.SearchGap
	err = x.db.Read(ctx, func(tx *storage.Tx) (err error) {
		gaps, err = tx.SearchGaps(maxGaps)
		return err
	})
	if err != nil || len(gaps) == 0 {
		unindexed.Set(0)
		return false, err
	}
	left := storage.Pos(0)
	for _, g := range gaps {
		left += g.UpTo - g.After
	}
	unindexed.Set(float64(left))
	gap, at := gaps[0], gaps[0].After
	var docs []tailDoc
	for terms := 0; at < gap.UpTo && !x.full(len(docs), terms); {
		err := x.db.Read(ctx, func(tx *storage.Tx) error {
			part, end, err := x.read(tx, at, gap.UpTo, readBatch)
			docs, at = append(docs, part...), end
			terms += termsOf(part)
			return err
		})
		if err != nil {
			return true, err
		}
	}
	if err := x.store(ctx, docs); err != nil {
		return true, err
	}
	return true, x.db.Write(ctx, func(tx *storage.Tx) error { return tx.NarrowSearchGap(gap, at) })
}

// Backlog returns the total length of the gaps that remain to be indexed, in positions.
func Backlog(tx *storage.Tx) (left storage.Pos, err error) {
	gaps, err := tx.SearchGaps(maxGaps)
	for _, g := range gaps {
		left += g.UpTo - g.After
	}
	return left, err
}

// store adds docs, which are in order of position, to the blocks of their rooms. It is idempotent: a doc that is
// already in a block is not added again.
func (x *Index) store(ctx context.Context, docs []tailDoc) error {
	byRoom := map[ident.RoomNID][]postings.Doc{}
	var rooms []ident.RoomNID
	for i := range docs {
		if byRoom[docs[i].room] == nil {
			rooms = append(rooms, docs[i].room)
		}
		byRoom[docs[i].room] = append(byRoom[docs[i].room], docs[i].Doc)
	}
	var together []addition
	size, terms := 0, 0
	for _, room := range rooms {
		for rest := byRoom[room]; len(rest) > 0; {
			n, has := portion(rest)
			if size > 0 && (size >= maxWriteDocs || terms+has > maxWriteTerms) {
				if err := x.add(ctx, together); err != nil {
					return err
				}
				together, size, terms = nil, 0, 0
			}
			together, size, terms = append(together, addition{room: room, docs: rest[:n]}), size+n, terms+has
			rest = rest[n:]
		}
	}
	return x.add(ctx, together)
}

// portion returns how many of the docs of a room are added together at most, and how many terms these have.
func portion(docs []postings.Doc) (n, terms int) {
	for n < len(docs) && n < postings.MaxDocs/2 && (n == 0 || terms+len(docs[n].Terms) <= maxWriteTerms) {
		terms += len(docs[n].Terms)
		n++
	}
	return n, terms
}

// addition is a set of docs to add to one room.
type addition struct {
	room   ident.RoomNID
	docs   []postings.Doc
	blocks []old        // the blocks to replace
	set    postings.Set // all docs of the new block
}

// old is an existing block that an addition is to replace.
type old struct {
	storage.SearchBlock
	head []byte
}

// maxRetries bounds how often an addition is prepared again because a block has changed in the meantime.
const maxRetries = 10

// add adds docs to rooms in one write. It reads and merges blocks before the write, so that the committer only has to
// check that nothing has changed since.
func (x *Index) add(ctx context.Context, together []addition) error {
	if len(together) == 0 {
		return nil
	}
	for range maxRetries {
		err := x.db.Read(ctx, func(tx *storage.Tx) error {
			for i := range together {
				if err := together[i].prepare(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = x.write(ctx, together)
		}
		if !errors.Is(err, storage.ErrSearchChanged) {
			return err
		}
	}
	return fmt.Errorf("the search index changed %d times while it was being written", maxRetries)
}

// prepare leaves out docs that clients may no longer see, and chooses the blocks to merge with the remaining docs. If
// blocks overlap, which happens only if the server ended while it wrote them, it merges those. Otherwise it merges
// preceding blocks, as long as they are not much larger.
func (a *addition) prepare(tx *storage.Tx) error {
	if err := a.keepShown(tx); err != nil || len(a.docs) == 0 {
		return err
	}
	first := storage.Pos(a.docs[0].Pos)
	a.set, a.blocks = postings.NewSet(a.docs), nil
	found, err := tx.SearchBlocksBetween(a.room, first, storage.Pos(a.docs[len(a.docs)-1].Pos), maxGaps)
	if err != nil {
		return err
	}
	for _, b := range found {
		if err := a.merge(tx, b); err != nil {
			return err
		}
	}
	for n := len(a.set.Docs); len(found) == 0; n = len(a.set.Docs) {
		before, exists, err := tx.SearchBlockBefore(a.room, first)
		if err != nil {
			return err
		}
		if !exists || before.Docs > 2*n || before.Docs+n > postings.MaxDocs || before.Parts == postings.MaxParts || a.set.Postings() > postings.MaxPostings/2 {
			break
		}
		if err := a.merge(tx, before); err != nil {
			return err
		}
		first = before.First
	}
	return nil
}

func (a *addition) merge(tx *storage.Tx, b storage.SearchBlock) error {
	block, err := tx.ReadSearchBlock(b)
	if err != nil {
		return err
	}
	set, err := postings.Decode(block)
	if err != nil {
		return fmt.Errorf("block %d: %w", b.NID, err)
	}
	if b.Stale > 0 {
		shown, err := shownOf(tx, set.Docs)
		if err != nil {
			return err
		}
		for i := range set.Docs {
			if !shown[storage.Pos(set.Docs[i].Pos)] {
				set.Docs[i].Field = postings.Gone
			}
		}
	}
	a.blocks = append(a.blocks, old{b, block.Head})
	a.set = postings.Merge(set.WithoutGone(), a.set)
	return nil
}

// keepShown drops the docs of events that were redacted, rejected or purged.
func (a *addition) keepShown(tx *storage.Tx) error {
	shown, err := shownOf(tx, a.docs)
	if err == nil && len(shown) < len(a.docs) {
		a.docs = slices.DeleteFunc(slices.Clone(a.docs), func(d postings.Doc) bool { return !shown[storage.Pos(d.Pos)] })
	}
	return err
}

// write stores the prepared additions. It fails with storage.ErrSearchChanged if a block has changed since it was read.
func (x *Index) write(ctx context.Context, together []addition) error {
	blocks := make([][]encoded, len(together))
	for i := range together {
		blocks[i] = encode(together[i].set)
	}
	return x.db.Write(ctx, func(tx *storage.Tx) error {
		for i := range together {
			if err := together[i].write(tx, blocks[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

type encoded struct {
	docs  []postings.Doc
	block postings.Block
}

// encode encodes a set as blocks.
func encode(s postings.Set) (out []encoded) {
	for _, part := range s.Split() {
		out = append(out, encoded{part.Docs, postings.Encode(part)})
	}
	return out
}

func (a *addition) write(tx *storage.Tx, blocks []encoded) error {
	before := len(a.docs)
	if before == 0 {
		return nil
	}
	if err := a.keepShown(tx); err != nil {
		return err
	}
	if len(a.docs) < before {
		return storage.ErrSearchChanged
	}
	for _, b := range a.blocks {
		if err := tx.DeleteSearchBlock(b.SearchBlock, b.head); err != nil {
			return err
		}
	}
	for _, b := range blocks {
		if err := tx.InsertSearchBlock(a.room, b.docs, b.block); err != nil {
			return err
		}
	}
	return nil
}
