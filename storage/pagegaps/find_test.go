package pagegaps

import (
	"encoding/binary"
	"testing"
)

// The kinds of pages; see gaps.c.
const (
	interiorIndex = 2
	interiorTable = 5
	leafIndex     = 10
	leafTable     = 13

	pendingByte = 0x40000000
)

// page returns a page of 512 bytes of the given kind.
func page(kind byte, cells, content uint16) []byte {
	b := make([]byte, 512)
	b[0] = kind
	binary.BigEndian.PutUint16(b[3:], cells)
	binary.BigEndian.PutUint16(b[5:], content)
	return b
}

func TestFind(t *testing.T) {
	const size, small = 512, 512 * 1000
	for _, c := range []struct {
		name             string
		page             []byte
		offset, fileSize int64
		from, to         int
	}{
		{"a leaf of a table", page(leafTable, 3, 400), 2 * size, small, 14, 400},
		{"a leaf of an index", page(leafIndex, 0, 512), 2 * size, small, 8, 512},
		{"an interior page of a table", page(interiorTable, 10, 300), 2 * size, small, 32, 300},
		{"an interior page of an index", page(interiorIndex, 1, 15), 2 * size, small, 14, 15},
		{"no gap", page(leafTable, 3, 14), 2 * size, small, 14, 14},
		{"another kind of page", page(1, 3, 400), 2 * size, small, 0, 0},
		{"the first page", page(leafTable, 3, 400), 0, small, 0, 0},
		{"the first page of the pointer map", page(interiorTable, 3, 400), size, small, 0, 0},
		{"the page after it", page(interiorTable, 3, 400), 2 * size, small, 18, 400},
		{"the second page of the pointer map", page(interiorTable, 3, 400), 104 * size, small, 0, 0},
		{"the page before it", page(interiorTable, 3, 400), 103 * size, small, 18, 400},
		{"not at the beginning of a page", page(leafTable, 3, 400), 2*size + 1, small, 0, 0},
		{"part of a page", page(leafTable, 3, 400)[:500], 2000, small, 0, 0},
		{"pointers beyond the cells", page(leafTable, 300, 400), 2 * size, small, 0, 0},
		{"cells beyond the page", page(leafTable, 3, 513), 2 * size, small, 0, 0},
		{"a file in which page numbers begin like a leaf of a table", page(leafTable, 3, 400), 2 * size, leafTable << 24 * size, 0, 0},
		{"a file in which page numbers soon begin like an interior page", page(interiorIndex, 3, 400), 2 * size, interiorIndex << 23 * size, 0, 0},
		{"a leaf in the same file", page(leafTable, 3, 400), 2 * size, interiorIndex << 23 * size, 14, 400},
	} {
		from, to := find(c.page, c.offset, c.fileSize)
		if from != c.from || to != c.to {
			t.Errorf("%s: from %d to %d, want %d to %d", c.name, from, to, c.from, c.to)
		}
	}
}

func TestThePointerMapSkipsThePendingByte(t *testing.T) {
	// With pages of 1,024 bytes, the regular place of a page of the map is never the page of the pending byte; with
	// 65,536 it is neither. The rule is that of the file format.
	for size := int64(smallestPage); size <= largestPage; size *= 2 {
		perPage, pending := size/5+1, pendingByte/size+1
		regular := (pending-2)%perPage == 0
		if inPointerMap(pending, size) {
			t.Errorf("pages of %d bytes: the page of the pending byte counts as one of the map", size)
		}
		if inPointerMap(pending+1, size) != regular {
			t.Errorf("pages of %d bytes: the map is not moved to the next page", size)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add(page(leafTable, 3, 400), int64(1024), int64(512000))
	f.Fuzz(func(t *testing.T, page []byte, offset, fileSize int64) {
		if from, to := find(page, offset, fileSize); from < 0 || from > to || to > len(page) {
			t.Errorf("from %d to %d of %d", from, to, len(page))
		}
	})
}
