// Package pagegaps keeps copies of moved rows out of SQLite's database file.
//
// SQLite's secure_delete overwrites a deleted row with zeros where the row is. But when pages are merged or split,
// SQLite stores the rows of a page anew and leaves what the page had between its cell pointers and its cells, the
// gap, as it was: copies of rows that are now elsewhere. If such a row is deleted later, its copy stays. The VFS of
// this package is SQLite's own one, except that the gaps of the pages that it writes to a database file are zeros, that
// it syncs the file in small portions, and that it writes many frames of the write-ahead log at a time. SQLite never
// reads a gap.
//
// The VFS is C only: a call into Go would wait for the scheduler at each page while the server is busy.
package pagegaps

// #include "gaps.h"
import "C"

import "unsafe"

const (
	smallestPage = C.ebb_smallest_page
	largestPage  = C.ebb_largest_page
)

// find returns the gap of a page that is at an offset in a file of the given size; see ebb_find_gap.
func find(page []byte, offset, fileSize int64) (from, to int) {
	g := C.ebb_find_gap((*C.uchar)(unsafe.SliceData(page)), C.int64_t(len(page)), C.int64_t(offset), C.int64_t(fileSize))
	return int(g.from), int(g.to)
}

// dirty is like find, but returns equal offsets also if the gap has only zeros.
func dirty(page []byte, offset, fileSize int64) (from, to int) {
	g := C.ebb_dirty_gap((*C.uchar)(unsafe.SliceData(page)), C.int64_t(len(page)), C.int64_t(offset), C.int64_t(fileSize))
	return int(g.from), int(g.to)
}

func inPointerMap(page, size int64) bool {
	return C.ebb_in_pointer_map(C.int64_t(page), C.int64_t(size)) != 0
}

var zeros [largestPage]byte
