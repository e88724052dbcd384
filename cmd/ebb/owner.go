package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// actAsOwner switches a process of root to the user who owns data_dir, because the server's user could not read files
// that root writes there.
func actAsOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil //nolint:nilerr // a folder that is not there belongs to nobody yet
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return nil
	}
	uid, gid, groups := int(stat.Uid), int(stat.Gid), []int{int(stat.Gid)}
	// Otherwise the user has a number but no name, as in containers.
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		gid, groups = groupsOf(u, gid)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("act as the owner of %s: %w", dir, err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("act as the owner of %s: %w", dir, err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("act as the owner of %s: %w", dir, err)
	}
	return nil
}

// groupsOf returns a user's primary group and all groups that the user is in.
func groupsOf(u *user.User, byDefault int) (gid int, groups []int) {
	gid = byDefault
	if n, err := strconv.Atoi(u.Gid); err == nil {
		gid = n
	}
	groups = []int{gid}
	names, err := u.GroupIds()
	if err != nil {
		return gid, groups
	}
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n != gid {
			groups = append(groups, n)
		}
	}
	return gid, groups
}
