// Package postings is the form in which the search index stores a block: some events of one room that have text, and
// for each term the events in which it occurs. A block is bytes in, values out; where it is stored is up to package
// storage.
//
// A block consists of a head, which lists the events, and of parts with the terms. Each part has the terms that begin
// with the same bits, so that a search reads one small part of a block for each of its words. The terms of a small
// block are in its head. Numbers are stored as differences, in as few bytes as they need.
package postings

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// Doc is an event in the search index: one with text, and the terms of that text.
type Doc struct {
	Pos   int64 // its position
	Order int64 // its order in the timeline, or that of the original for an edit; 0: the order that a new event at Pos has
	Time  int64 // ms; when it was sent
	Field Field // which of its texts is indexed
	Size  uint8 // a measure of its length, below 8
	Terms []uint32
}

// Field says which key of an event's content was indexed.
type Field uint8

// The fields.
const (
	Gone  Field = iota // none: the event was removed from the index
	Body               // content.body
	Name               // content.name
	Topic              // content.topic
)

const (
	// MaxDocs bounds the events of one block, and with them the work of removing one of them.
	MaxDocs = 4096
	// MaxPostings bounds the terms of all events of a block, for the same reason. A doc with more has its own block.
	// 4,096 messages of 12 words have a tenth of it.
	MaxPostings = 1 << 19
	// MaxParts bounds the parts of a block.
	MaxParts = 1 << 10
	// partSize is the size that parts should have, in bytes: four fit in a page of SQLite.
	partSize = 800
	// format is the first byte of a head.
	format = 1
)

// ErrCorrupt means that bytes are not those of a block.
var ErrCorrupt = errors.New("postings: this is no block of the search index")

// Block is an encoded block.
type Block struct {
	Head  []byte
	Parts [][]byte // a power of two; none: the terms are in the head
}

// Set is a decoded block: docs together with their terms. The terms are in postings; the field Terms of the docs is not
// set.
type Set struct {
	Docs     []Doc    // sorted by Pos
	postings []uint64 // sorted pairs: a term in the upper 32 bits, and the number of a doc that has it in the lower ones
}

// NewSet returns a Set of the given docs and their Terms. The docs must be sorted by Pos without duplicates.
func NewSet(docs []Doc) Set {
	n := 0
	for i := range docs {
		n += len(docs[i].Terms)
	}
	s := Set{Docs: make([]Doc, len(docs)), postings: make([]uint64, 0, n)}
	for i, d := range docs {
		for _, t := range d.Terms {
			s.postings = append(s.postings, posting(t, uint32(i)))
		}
		d.Terms = nil
		s.Docs[i] = d
	}
	slices.Sort(s.postings)
	return s
}

// Postings returns the number of terms of all docs.
func (s Set) Postings() int { return len(s.postings) }

func posting(term, doc uint32) uint64 { return uint64(term)<<32 | uint64(doc) }

// Merge returns a set with the docs of a and b. If both have a doc with the same Pos, that of b is used.
func Merge(a, b Set) Set {
	out := Set{Docs: make([]Doc, 0, len(a.Docs)+len(b.Docs))}
	left, right := make([]uint32, len(a.Docs)), make([]uint32, len(b.Docs))
	i, j := 0, 0
	for i < len(a.Docs) || j < len(b.Docs) {
		switch {
		case j == len(b.Docs) || i < len(a.Docs) && a.Docs[i].Pos < b.Docs[j].Pos:
			left[i] = uint32(len(out.Docs))
			out.Docs = append(out.Docs, a.Docs[i])
			i++
		default:
			if i < len(a.Docs) && a.Docs[i].Pos == b.Docs[j].Pos {
				left[i] = dropped
				i++
			}
			right[j] = uint32(len(out.Docs))
			out.Docs = append(out.Docs, b.Docs[j])
			j++
		}
	}
	out.postings = merge(renumber(a.postings, left), renumber(b.postings, right))
	return out
}

// WithoutGone returns the set without the docs whose Field is Gone.
func (s Set) WithoutGone() Set {
	if !slices.ContainsFunc(s.Docs, func(d Doc) bool { return d.Field == Gone }) {
		return s
	}
	out, numbers := Set{}, make([]uint32, len(s.Docs))
	for i, d := range s.Docs {
		if numbers[i] = dropped; d.Field != Gone {
			numbers[i] = uint32(len(out.Docs))
			out.Docs = append(out.Docs, d)
		}
	}
	out.postings = renumber(s.postings, numbers)
	return out
}

// Split divides the set into sets that are small enough for a block.
func (s Set) Split() (out []Set) {
	if len(s.Docs) <= MaxDocs && len(s.postings) <= MaxPostings {
		return []Set{s}
	}
	terms := make([]int, len(s.Docs)) // of each doc
	for _, p := range s.postings {
		terms[uint32(p)]++
	}
	for first := 0; first < len(s.Docs); {
		n, sum := 1, terms[first]
		for first+n < len(s.Docs) && n < MaxDocs && sum+terms[first+n] <= MaxPostings {
			sum += terms[first+n]
			n++
		}
		out = append(out, s.slice(first, n))
		first += n
	}
	return out
}

// slice returns the set of n docs of s, starting with the given one.
func (s Set) slice(first, n int) Set {
	numbers := make([]uint32, len(s.Docs))
	for i := range numbers {
		if numbers[i] = dropped; i >= first && i < first+n {
			numbers[i] = uint32(i - first)
		}
	}
	return Set{Docs: s.Docs[first : first+n], postings: renumber(s.postings, numbers)}
}

// dropped stands for the new number of a doc that is left out.
const dropped = 1<<32 - 1

// renumber gives the docs of postings new numbers: doc i gets numbers[i]. It leaves out docs whose new number is
// dropped. The others must keep their order.
func renumber(postings []uint64, numbers []uint32) []uint64 {
	out := make([]uint64, 0, len(postings))
	for _, p := range postings {
		if n := numbers[uint32(p)]; n != dropped {
			out = append(out, posting(uint32(p>>32), n))
		}
	}
	return out
}

func merge(a, b []uint64) []uint64 {
	out := make([]uint64, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// Encode encodes a set that is small enough for a block; see Set.Split.
func Encode(s Set) Block {
	head := appendDocs([]byte{format}, s.Docs)
	terms := appendTerms(nil, s.postings)
	if len(terms) <= partSize {
		return Block{Head: append(head, terms...)}
	}
	n := min(1<<bits.Len(uint((len(terms)-1)/partSize)), MaxParts)
	b := Block{Head: head, Parts: make([][]byte, n)}
	rest := s.postings
	for i := range b.Parts {
		end := len(rest)
		if i+1 < n {
			end, _ = slices.BinarySearch(rest, uint64(i+1)<<(64-bits.Len(uint(n)-1)))
		}
		b.Parts[i], rest = appendTerms(nil, rest[:end]), rest[end:]
	}
	return b
}

// PartOf returns the index of the part that has the given term, in a block of n parts.
func PartOf(term uint32, n int) int { return int(term >> (32 - bits.Len(uint(n)-1))) }

// appendDocs appends the docs in groups. Each group begins with its length, so that a reader can skip it; its docs are
// stored as differences, the first one from the first doc of the block.
func appendDocs(dst []byte, docs []Doc) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(docs)))
	if len(docs) == 0 {
		return dst
	}
	base := docs[0]
	dst = binary.AppendVarint(binary.AppendUvarint(dst, uint64(base.Pos)), base.Time)
	var group []byte
	for part := range slices.Chunk(docs, groupDocs) {
		group = group[:0]
		pos, time := base.Pos, base.Time
		for i := range part {
			group = appendDoc(group, &part[i], pos, time)
			pos, time = part[i].Pos, part[i].Time
		}
		dst = append(binary.AppendUvarint(dst, uint64(len(group))), group...)
	}
	return dst
}

// appendDoc appends a doc as the difference from the doc before it, which has the given position and time.
func appendDoc(dst []byte, d *Doc, pos, time int64) []byte {
	flags := byte(d.Field) | d.Size<<2
	if d.Order != 0 {
		flags |= ownOrder
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(d.Pos-pos))
	dst = binary.AppendVarint(dst, d.Time-time)
	if d.Order != 0 {
		dst = binary.AppendUvarint(dst, uint64(d.Order))
	}
	return dst
}

// groupDocs is the number of docs in a group.
const groupDocs = 64

const ownOrder = 1 << 5

// appendTerms appends, for each term, the number of docs that have it, and the numbers of these docs.
func appendTerms(dst []byte, postings []uint64) []byte {
	var before uint32
	for len(postings) > 0 {
		term, n := uint32(postings[0]>>32), 1
		for n < len(postings) && uint32(postings[n]>>32) == term {
			n++
		}
		dst = binary.AppendUvarint(dst, uint64(term-before))
		dst = binary.AppendUvarint(dst, uint64(n))
		var doc uint32
		for _, p := range postings[:n] {
			dst = binary.AppendUvarint(dst, uint64(uint32(p)-doc))
			doc = uint32(p)
		}
		before, postings = term, postings[n:]
	}
	return dst
}

// reader reads numbers from buf. It sets bad if there is none where one is expected.
type reader struct {
	buf []byte
	at  int // moved instead of buf, which would cost a write barrier
	bad bool
}

func (r *reader) uvarint() uint64 {
	buf := r.buf[min(r.at, len(r.buf)):]
	if len(buf) > 0 && buf[0] < 0x80 { // usual
		r.at++
		return uint64(buf[0])
	}
	v, n := binary.Uvarint(buf)
	if n <= 0 {
		r.bad, r.at = true, len(r.buf)
		return 0
	}
	r.at += n
	return v
}

// rest returns the bytes that have not been read yet.
func (r *reader) rest() []byte { return r.buf[r.at:] }

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// heading is what parseHead has read of a head: everything before the groups.
type heading struct {
	n    int    // the number of docs
	base Doc    // has the position and time of the first doc
	r    reader // reads the groups
}

func parseHead(head []byte) (h heading, err error) {
	if len(head) == 0 || head[0] != format {
		return h, ErrCorrupt
	}
	h.r.buf = head[1:]
	n := h.r.uvarint()
	if n > MaxDocs {
		return h, ErrCorrupt
	}
	if h.n = int(n); n > 0 {
		h.base.Pos, h.base.Time = int64(h.r.uvarint()), h.r.varint()
	}
	if h.r.bad {
		err = ErrCorrupt
	}
	return h, err
}

// group returns the bytes of the next group.
func (h *heading) group() (reader, error) {
	n := h.r.uvarint()
	if h.r.bad || n > uint64(len(h.r.rest())) {
		return reader{}, ErrCorrupt
	}
	g := reader{buf: h.r.rest()[:n]}
	h.r.at += int(n)
	return g, nil
}

// next reads a doc into d, which must hold the doc before it.
func (r *reader) next(d *Doc) {
	flags := byte(r.uvarint())
	d.Pos += int64(r.uvarint())
	d.Time += r.varint()
	d.Field, d.Size, d.Order = Field(flags&3), flags>>2&7, 0
	if flags&ownOrder != 0 {
		d.Order = int64(r.uvarint())
	}
}

// Docs decodes the docs in a head, without their terms. If the block has no parts, the terms follow the docs in the
// head, and Docs returns the bytes of the terms.
func Docs(head []byte) (docs []Doc, terms []byte, err error) {
	h, err := parseHead(head)
	if err != nil {
		return nil, nil, err
	}
	all := make([]uint32, h.n)
	for i := range all {
		all[i] = uint32(i)
	}
	docs = make([]Doc, 0, h.n)
	terms, err = Pick(head, all, func(d *Doc) { docs = append(docs, *d) })
	return docs, terms, err
}

// Pick calls f for the docs with the given numbers, which must be sorted. f must not keep the Doc, which is
// overwritten. Pick returns the bytes of the terms that follow the docs, as Docs does.
func Pick(head []byte, numbers []uint32, f func(*Doc)) (terms []byte, err error) {
	h, err := parseHead(head)
	if err != nil {
		return nil, err
	}
	var d Doc // for all docs, since it escapes to f
	for first := 0; first < h.n; first += groupDocs {
		g, err := h.group()
		if err != nil {
			return nil, err
		}
		d.Pos, d.Time = h.base.Pos, h.base.Time
		for n := first; n < min(first+groupDocs, h.n) && len(numbers) > 0 && numbers[0] < uint32(first+groupDocs); n++ {
			if g.next(&d); g.bad {
				return nil, ErrCorrupt
			}
			if numbers[0] == uint32(n) {
				f(&d)
				numbers = numbers[1:]
			}
		}
	}
	return h.r.rest(), nil
}

// Find appends to dst the numbers of the docs that have the given term. terms is the part of the block that has the
// term (see PartOf), or what Docs and Pick return as terms if the block has no parts.
func Find(dst []uint32, terms []byte, term uint32) ([]uint32, error) {
	err := each(terms, func(t uint32, r *reader, n int) bool {
		if t > term {
			return false
		}
		var doc uint32
		for range n {
			if doc += uint32(r.uvarint()); t == term {
				dst = append(dst, doc)
			}
		}
		return true
	})
	return dst, err
}

// each calls f for every term until f returns false. n is the number of docs that have the term. f must read exactly n
// numbers from r, each of which is the difference from the number of the doc before.
func each(terms []byte, f func(term uint32, r *reader, n int) bool) error {
	r := reader{buf: terms}
	var term uint32
	for r.at < len(r.buf) {
		term += uint32(r.uvarint())
		n := r.uvarint()
		if r.bad || n == 0 || n > MaxDocs {
			return ErrCorrupt
		}
		if !f(term, &r, int(n)) {
			return nil
		}
		if r.bad {
			return ErrCorrupt
		}
	}
	return nil
}

// Decode decodes a block. Its parts must be complete and in order.
func Decode(b Block) (s Set, err error) {
	var terms []byte
	if s.Docs, terms, err = Docs(b.Head); err != nil {
		return Set{}, err
	}
	bad := false
	for _, part := range append([][]byte{terms}, b.Parts...) {
		err := each(part, func(t uint32, r *reader, n int) bool {
			var doc uint32
			for range n {
				doc += uint32(r.uvarint())
				bad = bad || uint64(doc) >= uint64(len(s.Docs))
				s.postings = append(s.postings, posting(t, doc))
			}
			return true
		})
		if err != nil || bad || !slices.IsSorted(s.postings) {
			return Set{}, ErrCorrupt
		}
	}
	return s, nil
}

// Without removes from terms the docs that are gone: gone[i] is set if doc i is. It reports whether that has changed
// anything.
func Without(terms []byte, gone []bool) (rest []byte, changed bool, err error) {
	kept := make([]uint64, 0, len(terms))
	err = each(terms, func(t uint32, r *reader, n int) bool {
		var doc uint32
		for range n {
			if doc += uint32(r.uvarint()); uint64(doc) < uint64(len(gone)) && gone[doc] {
				changed = true
			} else {
				kept = append(kept, posting(t, doc))
			}
		}
		return true
	})
	if err != nil || !changed {
		return terms, false, err
	}
	return appendTerms(make([]byte, 0, len(terms)), kept), true, nil
}

// HeadWithout returns the head without the docs that are gone: gone[i] is set if doc i is. Such docs stay in the list,
// so that the numbers of the others do not change, but their Field is Gone. Terms in the head lose them, too.
// HeadWithout returns nil if all docs of the block are gone.
func HeadWithout(head []byte, gone []bool) ([]byte, error) {
	docs, terms, err := Docs(head)
	if err != nil {
		return nil, err
	}
	left := false
	for i := range docs {
		if i < len(gone) && gone[i] {
			docs[i].Field, docs[i].Size = Gone, 0
		}
		left = left || docs[i].Field != Gone
	}
	if !left {
		return nil, nil
	}
	rest, _, err := Without(terms, gone)
	if err != nil {
		return nil, err
	}
	return append(appendDocs([]byte{format}, docs), rest...), nil
}

// Part is a part of a block.
type Part struct {
	Number int
	Data   []byte
}

// Without removes from a block the docs at positions that are gone, as HeadWithout does. It returns the head, the parts
// that change, and whether there are any such docs; if not, the block stays as it is.
func (b Block) Without(isGone func(pos int64) bool) (head []byte, parts []Part, some bool, err error) {
	docs, _, err := Docs(b.Head)
	if err != nil {
		return nil, nil, false, err
	}
	gone := make([]bool, len(docs))
	for i := range docs {
		gone[i] = docs[i].Field != Gone && isGone(docs[i].Pos)
		some = some || gone[i]
	}
	if !some {
		return b.Head, nil, false, nil
	}
	if head, err = HeadWithout(b.Head, gone); err != nil || head == nil {
		return nil, nil, true, err
	}
	for i, part := range b.Parts {
		rest, changed, err := Without(part, gone)
		if err != nil {
			return nil, nil, true, err
		}
		if changed {
			parts = append(parts, Part{i, rest})
		}
	}
	return head, parts, true, nil
}
