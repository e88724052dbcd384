package words

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/dchest/siphash"
)

// Hasher computes the terms of words. A term is a hash of a word, under which a search index stores the texts that
// contain the word. Two words rarely have the same term; if they do, a Matcher still distinguishes their texts. The
// hash is keyed, so that nobody can choose words that have the same term.
type Hasher struct {
	k0, k1 uint64
	scan   Scanner
	prev   []byte // the last character of a script without spaces, or a pair that ends with it
}

// KeySize is the length of the key of a Hasher, in bytes.
const KeySize = 16

// NewHasher returns a Hasher that uses the first KeySize bytes of key. The Hasher must be used by one goroutine only.
func NewHasher(key []byte) *Hasher {
	return &Hasher{k0: binary.LittleEndian.Uint64(key), k1: binary.LittleEndian.Uint64(key[8:KeySize])}
}

// term hashes a word, or a pair of joined characters; see Scanner.Joined.
func (h *Hasher) term(word []byte) uint32 { return uint32(siphash.Hash(h.k0, h.k1, word)) }

// Terms appends the terms of a text, sorted and without duplicates. For joined characters it appends the term of each
// character and that of each pair. size is the class of the text's length, which is below Sizes; see sizeOf.
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

// Sizes is the number of classes into which Terms divides the lengths of texts; see sizeOf.
const Sizes = 8

// sizeOf returns the class of a text with the given number of tokens: class 0 has 1 token, class 1 has 2, class 2 has 3
// or 4, class 3 has 5 to 8, and so on.
func sizeOf(tokens int) uint8 { return uint8(min(bits.Len(uint(max(tokens-1, 0))), Sizes-1)) }

// Rank returns how well a text that contains all words of the query matches it, given the class of the text's length.
// The rank is above 0 and at most 1. It is higher the larger the part of the text is that the query makes up.
func (q *Query) Rank(size uint8) float64 {
	words := float64(max(q.tokens, 1))
	return words / max(words, float64(int(1)<<size))
}
