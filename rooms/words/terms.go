package words

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/dchest/siphash"
)

// Hasher makes terms of words: numbers under which an index stores where they occur. Two words rarely share a term; if
// they do, a Query still distinguishes their texts. The hash is keyed, so that nobody can choose words that share a
// term.
type Hasher struct {
	k0, k1 uint64
	scan   Scanner
	prev   []byte // the last character of a script without spaces, or a pair that ends with it
}

// KeySize is the length of the key of a Hasher, in bytes.
const KeySize = 16

// NewHasher returns a Hasher with the first KeySize bytes of a key. It is used by one goroutine.
func NewHasher(key []byte) *Hasher {
	return &Hasher{k0: binary.LittleEndian.Uint64(key), k1: binary.LittleEndian.Uint64(key[8:KeySize])}
}

// term returns the term of a word, or of two joined characters.
func (h *Hasher) term(word []byte) uint32 { return uint32(siphash.Hash(h.k0, h.k1, word)) }

// Terms appends the terms of a text, sorted and each once, and returns a measure of its length, which is below Sizes.
// Of joined characters it includes each one and each pair.
func (h *Hasher) Terms(dst []uint32, text string) (terms []uint32, size uint8) {
	start, tokens := len(dst), 0
	for h.scan.Reset(text); h.scan.Next(); tokens++ {
		dst = append(dst, h.term(h.scan.Term))
		if h.scan.Joined {
			h.prev = append(h.prev, h.scan.Term...)
			dst = append(dst, h.term(h.prev))
		}
		if h.scan.Single {
			h.prev = append(h.prev[:0], h.scan.Term...)
		}
	}
	own := dst[start:]
	slices.Sort(own)
	return dst[:start+len(slices.Compact(own))], sizeOf(tokens)
}

// Sizes is the number of lengths that Terms distinguishes.
const Sizes = 8

// sizeOf returns the class of a length: 1, 2, 3-4, 5-8, and so on.
func sizeOf(tokens int) uint8 { return uint8(min(bits.Len(uint(max(tokens-1, 0))), Sizes-1)) }

// Rank says how closely a text of a size matches a query, all of whose words it has: the larger a part of the text they
// are, the more. It is above 0 and at most 1.
func (q *Query) Rank(size uint8) float64 {
	words := float64(max(q.tokens, 1))
	return words / max(words, float64(int(1)<<size))
}
