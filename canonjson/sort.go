package canonjson

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"sort"
)

// span is the part dst[start:end].
type span struct{ start, end uint32 }

// object is an object in dst whose members are not sorted. e.order[first:last] holds them sorted.
type object struct {
	span
	first, last uint32
}

// smallObject is the size in bytes up to which an unsorted object is rewritten as soon as it ends. At most about 25
// objects can nest in 256 bytes, so no byte is copied more often than that.
const smallObject = 256

// sort sorts the members ms of the object dst[start:], or, if it is large, records their order for sortObjects.
func (e *encoder) sort(start int, ms []member) error {
	e.sortMembers(ms)
	first := len(e.order)
	for i, m := range ms {
		if i+1 < len(ms) && bytes.Equal(e.quoted(m), e.quoted(ms[i+1])) {
			if e.strict {
				return e.refuse("duplicate key " + excerpt(e.quoted(m)))
			}
			continue // the last of duplicate keys counts
		}
		e.order = append(e.order, span{m.start, m.end})
	}
	o := object{span{uint32(start), uint32(len(e.dst))}, uint32(first), uint32(len(e.order))}
	if len(e.dst)-start > smallObject {
		e.unsorted = append(e.unsorted, o)
		return nil
	}
	e.scratch = append(e.scratch[:0], e.dst[start:]...)
	out := append(e.dst[:start], '{')
	for i, s := range e.order[first:] {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, e.scratch[int(s.start)-start:int(s.end)-start]...)
	}
	e.dst, e.order = append(out, '}'), e.order[:first]
	return nil
}

// manyMembers is the number of members above which a radix sort by the first bytes of the keys is worth its memory.
const manyMembers = 256

// sortMembers sorts members by their keys. Members with equal keys keep the order of the text.
func (e *encoder) sortMembers(ms []member) {
	if len(ms) < manyMembers {
		slices.SortFunc(ms, e.compareMembers)
		return
	}
	list := make([]ranked, len(ms))
	for i, m := range ms {
		list[i] = ranked{keyPrefix(e.key(m)), m}
	}
	list = sortRanked(list)
	for i, r := range list {
		ms[i] = r.member
	}
	for first, i := 0, 1; i <= len(ms); i++ {
		if i == len(ms) || list[i].prefix != list[first].prefix {
			slices.SortFunc(ms[first:i], e.compareMembers)
			first = i
		}
	}
}

// ranked is a member with its keyPrefix.
type ranked struct {
	prefix uint64
	member
}

// sortRanked sorts a list by prefix and returns the result, which may be list itself. It uses a radix sort, which takes
// a third of the time of a comparison sort.
func sortRanked(list []ranked) []ranked {
	other := make([]ranked, len(list))
	for shift := 0; shift < 64; shift += 8 {
		var ends [256]int
		for _, r := range list {
			ends[byte(r.prefix>>shift)]++
		}
		if ends[byte(list[0].prefix>>shift)] == len(list) {
			continue // this byte is the same in all prefixes
		}
		for i := range 255 {
			ends[i+1] += ends[i]
		}
		for _, r := range slices.Backward(list) {
			bucket := byte(r.prefix >> shift)
			ends[bucket]--
			other[ends[bucket]] = r
		}
		list, other = other, list
	}
	return list
}

func (e *encoder) compareMembers(a, b member) int {
	if c := compareKeys(e.key(a), e.key(b)); c != 0 {
		return c
	}
	return cmp.Compare(a.start, b.start)
}

// quoted returns the part of dst that is the key of m, including its quotation marks.
func (e *encoder) quoted(m member) []byte { return e.dst[m.start:m.keyEnd] }

// key returns the key of m in dst without its quotes, still escaped.
func (e *encoder) key(m member) []byte { return e.dst[m.start+1 : m.keyEnd-1] }

// sortObjects rewrites dst[from:] with the members of all unsorted objects sorted.
func (e *encoder) sortObjects(from int) {
	slices.SortFunc(e.unsorted, func(a, b object) int { return cmp.Compare(a.start, b.start) })
	e.scratch = slices.Grow(e.scratch[:0], len(e.dst))
	e.copySorted(span{uint32(from), uint32(len(e.dst))})
	e.dst = append(e.dst[:from], e.scratch...)
}

// copySorted appends a part of dst to scratch, sorting the members of the unsorted objects in it. It copies each byte
// once.
func (e *encoder) copySorted(s span) {
	at := s.start
	for i := e.firstObject(s.start); i < len(e.unsorted) && e.unsorted[i].start < s.end; i = e.firstObject(at) {
		o := e.unsorted[i]
		e.scratch = append(e.scratch, e.dst[at:o.start+1]...)
		for n, m := range e.order[o.first:o.last] {
			if n > 0 {
				e.scratch = append(e.scratch, ',')
			}
			e.copySorted(m)
		}
		e.scratch = append(e.scratch, '}')
		at = o.end
	}
	e.scratch = append(e.scratch, e.dst[at:s.end]...)
}

// firstObject returns the index of the first unsorted object that begins at or after an offset.
func (e *encoder) firstObject(start uint32) int {
	return sort.Search(len(e.unsorted), func(i int) bool { return e.unsorted[i].start >= start })
}

// compareKeys compares two canonically escaped keys by Unicode code points, which in UTF-8 is the order of the bytes.
// It does not allocate and unescapes at most one character of each key.
func compareKeys(a, b []byte) int {
	n := commonPrefix(a, b)
	if n == len(a) || n == len(b) {
		return cmp.Compare(len(a), len(b))
	}
	// If the keys differ within a \u escape, both have a hexadecimal digit there, and comparing these digits gives the
	// order of the characters.
	if backslashes(a[:n])%2 == 1 {
		n--
	}
	return cmp.Compare(firstByte(a[n:]), firstByte(b[n:]))
}

// firstByte returns the first byte of a canonically escaped text, which is not empty, after unescaping.
func firstByte(text []byte) byte {
	if text[0] == '\\' {
		r, _ := unescapeOne(text)
		return byte(r)
	}
	return text[0]
}

// backslashes returns the number of backslashes at the end of text.
func backslashes(text []byte) int {
	rest := bytes.TrimRight(text, `\`)
	return len(text[len(rest):])
}

// commonPrefix returns the length of the longest common prefix of a and b.
func commonPrefix(a, b []byte) (n int) {
	shorter := min(len(a), len(b))
	for n+8 <= shorter && binary.NativeEndian.Uint64(a[n:]) == binary.NativeEndian.Uint64(b[n:]) {
		n += 8
	}
	for n < shorter && a[n] == b[n] {
		n++
	}
	return n
}

// keyPrefix returns the first 8 bytes of a canonically escaped key, after unescaping and padded with zeros, as a
// big-endian number, so that prefixes compare like keys.
func keyPrefix(key []byte) (prefix uint64) {
	for range 8 {
		prefix <<= 8
		if len(key) == 0 {
			continue
		}
		prefix |= uint64(firstByte(key))
		n := 1
		if key[0] == '\\' {
			_, n = unescapeOne(key)
		}
		key = key[max(n, 1):]
	}
	return prefix
}
