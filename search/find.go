package search

import (
	"fmt"
	"slices"

	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms/words"
	"ebb/storage"
	"ebb/storage/postings"
)

const (
	// maxBlocks bounds the blocks that one search examines, newest first. That is enough for 16 million messages in one
	// room, or for some thousand rooms.
	maxBlocks = 4096
	// maxParts bounds the parts of blocks that one search reads. A part has 800 bytes on average.
	maxParts = 16384
	// maxPostings bounds the occurrences of words that one search examines, which takes about 20 ms.
	maxPostings = 2_000_000
	// blockBatch is the number of blocks that are examined at a time.
	blockBatch = 64
	// maxHeads bounds the heads of blocks in memory, in bytes: those of 400,000 events, of hitSize bytes each. Others
	// are decoded for each search.
	maxHeads = 16 << 20
	hitSize  = 40
	// headShare is the part of a block's events that must have the words for its whole head to be decoded and kept: for
	// a rare word, little is read.
	headShare = 16
)

// Hit is an event that appears to contain all words of a query. It may contain other words instead, because different
// words can have the same term.
type Hit struct {
	Room  ident.RoomNID
	Pos   storage.Pos
	Order ident.Order // its position in the timeline; for an edit, that of the original
	Time  int64       // milliseconds; when it was sent, or the original for an edit
	Field postings.Field
	Size  uint8 // see words.Query.Rank
}

// Request describes a search.
type Request struct {
	Rooms  []ident.RoomNID
	Query  *words.Query
	Fields []postings.Field
}

// Finder searches the index on behalf of one client request.
type Finder struct {
	x    *Index
	tail tail
}

// Begin returns a Finder. It must be called before the database read in which Find is called. Otherwise events that are
// moved from the tail to blocks in between would be missed in both.
func (x *Index) Begin() *Finder { return &Finder{x: x, tail: x.current()} }

// Find calls each for every event in the rooms that contains the words of the query, in no particular order. An event
// may be reported twice if the server was killed while it wrote the index. Find reports whether it searched all blocks:
// if the work exceeds a bound, it leaves out the oldest ones.
func (f *Finder) Find(tx *storage.Tx, req Request, each func(Hit)) (all bool, err error) {
	terms := req.Query.Terms(words.NewHasher(f.x.key))
	if len(terms) == 0 || len(req.Rooms) == 0 {
		return true, nil
	}
	upTo, err := tx.SearchedUpTo()
	if err != nil {
		return false, err
	}
	s := &scan{tx: tx, req: &req, terms: terms, each: each, heads: f.x.heads}
	for _, field := range req.Fields {
		s.wanted[field] = true
	}
	if err := f.findInTail(s, upTo); err != nil {
		return false, err
	}
	blocks, err := tx.SearchBlocks(req.Rooms, maxBlocks)
	if err != nil {
		return false, err
	}
	all = len(blocks) < maxBlocks
	for part := range slices.Chunk(blocks, blockBatch) {
		if s.parts > maxParts || s.postings > maxPostings {
			return false, nil
		}
		if err := s.blocks(part); err != nil {
			return false, err
		}
	}
	return all, nil
}

// findInTail searches the events that are in no block yet as of this transaction. It reads new events into the tail.
func (f *Finder) findInTail(s *scan, blocksUpTo storage.Pos) error {
	for more := true; more; {
		var err error
		if more, err = f.x.extend(s.tx, &f.tail, readBatch); err != nil {
			return err
		}
	}
	rooms := make(map[ident.RoomNID]bool, len(s.req.Rooms))
	for _, r := range s.req.Rooms {
		rooms[r] = true
	}
	for i := range f.tail.docs {
		d := &f.tail.docs[i]
		if storage.Pos(d.Pos) <= blocksUpTo || !rooms[d.room] {
			continue
		}
		if !slices.ContainsFunc(s.terms, func(t uint32) bool { _, has := slices.BinarySearch(d.Terms, t); return !has }) {
			s.hit(hitOf(d.room, &d.Doc))
		}
	}
	return nil
}

// scan is the state of one search.
type scan struct {
	tx              *storage.Tx
	req             *Request
	terms           []uint32
	wanted          [postings.Topic + 1]bool // by field
	each            func(Hit)
	heads           *keyed.Map[storage.Pos, []Hit]
	parts, postings int // read so far
}

func (s *scan) hit(h Hit) {
	if s.wanted[h.Field] {
		s.each(h)
	}
}

func hitOf(room ident.RoomNID, d *postings.Doc) Hit {
	h := Hit{Room: room, Pos: storage.Pos(d.Pos), Order: ident.Order(d.Order), Time: d.Time, Field: d.Field, Size: d.Size}
	if d.Order == 0 {
		h.Order = orderOf(h.Pos)
	}
	return h
}

// candidate is a block that may have matches. found holds the numbers, within the block, of the docs that contain all
// terms examined so far.
type candidate struct {
	storage.SearchBlock
	head  []byte
	found []uint32
}

// blocks searches some blocks, one term after the other. Only blocks with a match for the previous terms are read for
// the next term, so a query with a rare word needs little reading.
func (s *scan) blocks(blocks []storage.SearchBlock) error {
	left := make([]candidate, len(blocks))
	for i, b := range blocks {
		left[i].SearchBlock = b
	}
	for i, term := range s.terms {
		data, err := s.read(left, term)
		if err != nil {
			return err
		}
		kept := left[:0]
		for _, c := range left {
			if err := s.narrow(&c, term, i == 0, data); err != nil {
				return fmt.Errorf("block %d of the search index: %w", c.NID, err)
			}
			if len(c.found) > 0 {
				kept = append(kept, c)
			}
		}
		left = kept
	}
	return s.hits(left)
}

// read reads, for each block, the part that holds the given term. The terms of a small block are in its head, which is
// read only once.
func (s *scan) read(of []candidate, term uint32) (map[int64][]byte, error) {
	var keys []int64
	for i := range of {
		if c := &of[i]; c.Parts > 0 || c.head == nil {
			keys = append(keys, c.partOf(term))
		}
	}
	s.parts += len(keys)
	return s.tx.SearchParts(keys)
}

// partOf returns the key of the part of the block that holds the given term.
func (c *candidate) partOf(term uint32) int64 {
	if c.Parts == 0 {
		return c.Part(-1)
	}
	return c.Part(postings.PartOf(term, c.Parts))
}

// narrow keeps only the docs that also contain a term.
func (s *scan) narrow(c *candidate, term uint32, first bool, data map[int64][]byte) (err error) {
	terms := data[c.partOf(term)]
	if c.Parts == 0 {
		if c.head == nil {
			c.head = terms
		}
		if terms, err = postings.Pick(c.head, nil, nil); err != nil {
			return err
		}
	}
	with, err := postings.Find(nil, terms, term)
	s.postings += len(with)
	if first {
		c.found = with
	} else {
		c.found = intersect(c.found, with)
	}
	return err
}

// intersect returns the numbers that are in both sorted lists. It reuses the memory of the first.
func intersect(a, b []uint32) []uint32 {
	out := a[:0]
	for _, n := range a {
		for len(b) > 0 && b[0] < n {
			b = b[1:]
		}
		if len(b) > 0 && b[0] == n {
			out = append(out, n)
		}
	}
	return out
}

// hits reports the matches in the given blocks. The events of a block are listed in its head, which it reads if
// necessary.
func (s *scan) hits(found []candidate) error {
	var keys []int64
	known := make([][]Hit, len(found))
	for i := range found {
		if found[i].head != nil {
			continue
		}
		if found[i].Stale == 0 {
			known[i], _ = s.heads.Get(found[i].NID)
		}
		if known[i] == nil {
			keys = append(keys, found[i].Part(-1))
		}
	}
	s.parts += len(keys)
	heads, err := s.tx.SearchParts(keys)
	if err != nil {
		return err
	}
	for i := range found {
		c := &found[i]
		if c.head == nil && known[i] == nil {
			c.head = heads[c.Part(-1)]
		}
		s.postings += c.Docs
		if err := s.hitsOf(c, known[i]); err != nil {
			return fmt.Errorf("block %d of the search index: %w", c.NID, err)
		}
	}
	return nil
}

// hitsOf reports the matches in one block. known has the events of the block's head; it is nil if they are not in
// memory. known may be older than the block, but an event that was removed since then is not in c.found, so it is not
// reported.
func (s *scan) hitsOf(c *candidate, known []Hit) error {
	if c.Stale > 0 {
		return s.shownHits(c)
	}
	if known == nil && c.Parts > 0 && len(c.found) >= c.Docs/headShare {
		docs, _, err := postings.Docs(c.head)
		if err != nil {
			return err
		}
		known = make([]Hit, len(docs))
		for i := range docs {
			known[i] = hitOf(c.Room, &docs[i])
		}
		s.heads.Put(c.NID, known)
	}
	if known == nil {
		_, err := postings.Pick(c.head, c.found, func(d *postings.Doc) { s.hit(hitOf(c.Room, d)) })
		return err
	}
	for _, n := range c.found {
		if int(n) >= len(known) {
			return postings.ErrCorrupt
		}
		s.hit(known[n])
	}
	return nil
}

// shownHits reports the matches in a block that has terms of purged events, except for these.
func (s *scan) shownHits(c *candidate) error {
	var hits []Hit
	var positions []storage.Pos
	_, err := postings.Pick(c.head, c.found, func(d *postings.Doc) {
		hits, positions = append(hits, hitOf(c.Room, d)), append(positions, storage.Pos(d.Pos))
	})
	if err != nil {
		return err
	}
	shown, err := s.tx.StillShown(positions)
	for _, h := range hits {
		if shown[h.Pos] {
			s.hit(h)
		}
	}
	return err
}
