package pagegaps

// #include <stdlib.h>
// #include "vfs.h"
import "C"

import (
	"bytes"
	"fmt"
	"sync"
	"unsafe"

	_ "github.com/mattn/go-sqlite3" // SQLite, with which vfs.c is linked
)

const vfsName = "ebb"

// VFS registers the VFS and returns its name, which is the value of "vfs" in the URI of a database.
func VFS() (string, error) { return vfsName, register() }

var register = sync.OnceValue(func() error {
	if code := C.ebb_register_vfs(C.CString(vfsName)); code != 0 {
		return fmt.Errorf("SQLite does not accept the VFS that clears pages: error %d", code)
	}
	return nil
})

// ebbDirtyGap is called for each write to a database file. It returns the gap of the page that is to be written, or
// two equal offsets if there is nothing to clear.
//
//export ebbDirtyGap
func ebbDirtyGap(page unsafe.Pointer, size C.int, offset, fileSize C.longlong, from, to *C.int) {
	b := unsafe.Slice((*byte)(page), int(size))
	if i, j := dirty(b, int64(offset), int64(fileSize)); i < j {
		*from, *to = C.int(i), C.int(j)
	}
}

// dirty is like find, but returns equal offsets also if the gap has only zeros.
func dirty(page []byte, offset, fileSize int64) (from, to int) {
	from, to = find(page, offset, fileSize)
	if bytes.Equal(page[from:to], zeros[from:to]) {
		return from, from
	}
	return from, to
}
