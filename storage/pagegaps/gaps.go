// Package pagegaps keeps copies of moved rows out of SQLite's database file.
//
// SQLite's secure_delete overwrites a deleted row with zeros where the row is. But when pages are merged or split,
// SQLite stores the rows of a page anew and leaves what the page had between its cell pointers and its cells, the
// gap, as it was: copies of rows that are now elsewhere. If such a row is deleted later, its copy stays. The VFS of
// this package is SQLite's own one, except that the gaps of the pages that it writes to a database file are zeros.
// SQLite never reads a gap.
package pagegaps

import "encoding/binary"

// The kinds of pages of a b-tree, which are the first bytes of these pages.
// Source: https://www.sqlite.org/fileformat2.html#b_tree_pages
const (
	interiorIndex = 2
	interiorTable = 5
	leafIndex     = 10
	leafTable     = 13
)

const (
	smallestPage = 512
	largestPage  = 65536
	pointerSize  = 2
	// pendingByte is the offset of the bytes that SQLite locks. The page that contains them is never used.
	pendingByte = 0x40000000
)

// find returns the gap of a page that is at an offset in a file of the given size. If the page is not one of a b-tree,
// or has no gap, from and to are equal. Page 1, which has the schema, counts as having none. Page numbers of the file's
// pointer map are understood as in a database with auto_vacuum and without reserved bytes.
func find(page []byte, offset, fileSize int64) (from, to int) {
	size := int64(len(page))
	if size < smallestPage || size > largestPage || size&(size-1) != 0 || offset < size || offset%size != 0 {
		return 0, 0
	}
	kind, header := page[0], 8
	switch kind {
	case interiorIndex, interiorTable:
		header = 12
	case leafIndex, leafTable:
	default:
		return 0, 0
	}
	// Other pages than those of b-trees and the pointer map begin with the number of another page in four bytes. In a
	// file with so many pages that this number can begin with the kind (2: 64 GiB, with a margin for what is not
	// written yet; 13, which has the messages: 416 GiB), the two cannot be told apart.
	if int64(kind)<<24 <= 2*(fileSize/size) || inPointerMap(offset/size+1, size) {
		return 0, 0
	}
	from = header + pointerSize*int(binary.BigEndian.Uint16(page[3:]))
	to = int(binary.BigEndian.Uint16(page[5:]))
	if to == 0 {
		to = largestPage
	}
	if from > to || to > len(page) {
		return 0, 0
	}
	return from, to
}

// inPointerMap reports whether a page belongs to the pointer map, which says for each page which other page refers to
// it.
// Source: https://www.sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages
func inPointerMap(number, size int64) bool {
	const entrySize = 5
	perPage := size/entrySize + 1
	mapPage := (number-2)/perPage*perPage + 2
	if mapPage == pendingByte/size+1 {
		mapPage++
	}
	return number == mapPage
}

var zeros [largestPage]byte
