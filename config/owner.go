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

// OwnerOf explains a permission error for a file. The text is meant as the end of a message and names the owner of the
// file and the current user. For other errors, OwnerOf returns "".
func OwnerOf(err error) string {
	var at *fs.PathError
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &at) {
		return ""
	}
	// If a folder denies access, its owner is reported, because the file inside cannot be examined.
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

// ownerID returns the ID of the user who owns a file.
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

// userName returns the name of a user, or the user ID if the user has no name.
func userName(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return strconv.Itoa(uid)
	}
	return u.Username
}
