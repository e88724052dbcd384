package config

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// OwnerOf explains a permission error for a file, as the end of a message: who owns the file, and which user tried. It is "" for other
// errors.
func OwnerOf(err error) string {
	var at *fs.PathError
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &at) {
		return ""
	}
	// Where a folder keeps us out, the file itself cannot be looked at.
	path, err := filepath.Abs(at.Path)
	if err != nil {
		return ""
	}
	for ; ; path = filepath.Dir(path) {
		if uid, ok := ownerID(path); ok {
			return " (" + path + " belongs to the user " + userName(uid) + ", and ebb runs as " + userName(os.Geteuid()) + ": fix that with chown, or run ebb as that user)"
		}
		if path == filepath.Dir(path) {
			return ""
		}
	}
}

// ownerID is the user that a file belongs to.
func ownerID(path string) (uid int, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

// userName is the name of a user, or the number of one without a name.
func userName(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return strconv.Itoa(uid)
	}
	return u.Username
}
