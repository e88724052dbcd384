package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// actAsOwner switches a process that runs as root to the user who owns data_dir. Otherwise root would write files there
// that the server's user cannot read.
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
	// In containers, the user may have a number but no name.
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

// groupsOf returns a user's primary group and all groups to which the user belongs.
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
