package pagegaps

// #include <stdlib.h>
// #include "vfs.h"
import "C"

import (
	"fmt"
	"sync"

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
