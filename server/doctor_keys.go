package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ebb/bodykeys"
	"ebb/config"
	"ebb/storage"
)

// keyCheck is the name of the checks of the keys under which messages on PostgreSQL are encrypted.
const keyCheck = "message keys"

// messageKeys checks the keys of messages in a database on PostgreSQL.
func (d *doctor) messageKeys(ctx context.Context) {
	state, found, err := storage.PeekKeys(ctx, d.cfg.DSN())
	switch {
	case err != nil:
		d.say(keyCheck, warning, "", "the database cannot be read: %v", err)
	case !found || state.Empty && state.Folder == "":
	case state.Folder == "":
		d.say(keyCheck, warning, "set database_keys to a folder, such as keys, if deleted messages shall also become unreadable there (see docs/admin.md)",
			"messages in the database are not encrypted: PostgreSQL keeps deleted ones in its log and on replicas")
	case d.cfg.BodyKeys() == "":
		d.say(keyCheck, failed, "set database_keys to the folder of their keys", "messages in the database are encrypted, but the configuration names no keys: the server does not start")
	default:
		if folder := d.keyFolder(state); folder != nil {
			d.keyPlace(state)
			d.keyContents(ctx, folder)
			d.keyDelay(state)
		}
	}
}

// keyFolder opens the folder of keys, and checks that it can be used. It returns nil if it cannot be opened.
func (d *doctor) keyFolder(state storage.KeyState) *bodykeys.Folder {
	path := d.cfg.BodyKeys()
	f, err := bodykeys.Open(path)
	switch {
	case errors.Is(err, bodykeys.ErrNoFolder):
		d.say(keyCheck, failed, "restore the folder from its own copy (backup.keys), or mount the disk or share with it; without the keys nobody can read the messages",
			"%s has no keys: the server does not start", path)
	case errors.Is(err, fs.ErrPermission):
		d.say(keyCheck, failed, "run ebb doctor as the user of the server; if it is, give the folder to that user with chown -R", "%v%s", err, config.OwnerOf(err))
	case err != nil:
		d.say(keyCheck, failed, "check the disk or the network share with the folder", "%v", err)
	case f.ID() != state.Folder:
		d.say(keyCheck, failed, "set database_keys to the folder that belongs to this database; all servers that use a database must use the same folder",
			"the keys in %s belong to another database", path)
	default:
		d.probeKeys(f)
		return f
	}
	return nil
}

// slowKeys is the time for creating a key from which on a warning is given. Usually it takes some milliseconds.
const slowKeys = time.Second

// probeKeys checks that this machine can create and destroy keys, and that only the server's user can read them.
func (d *doctor) probeKeys(f *bodykeys.Folder) {
	took, err := f.Probe()
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		d.say(keyCheck, failed, "make room on the disk with the folder", "no key can be created, so no messages can be sent: %v", err)
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		d.say(keyCheck, failed, "allow the user of the server to write there (chown -R, or mount it writable)", "no key can be created or destroyed: %v%s", err, config.OwnerOf(err))
	case err != nil:
		d.say(keyCheck, failed, "check the disk or the network share with the folder", "keys cannot be created, read and destroyed: %v", err)
	case took > slowKeys:
		d.say(keyCheck, warning, "use a faster disk or network share", "creating a key in %s took %s", f.Path(), took.Round(time.Millisecond))
	}
	if path, err := f.Exposed(); err != nil {
		d.say(keyCheck, failed, "run ebb doctor as the user of the server; if it is, give the folder to that user with chown -R", "%v%s", err, config.OwnerOf(err))
	} else if path != "" {
		d.say(keyCheck, failed, "chmod -R go= "+f.Path(), "other users of this machine may use %s", path)
	}
	if why, err := bodykeys.Volatile(f.Path()); err == nil && why != "" {
		d.say(keyCheck, failed, "move the folder to a disk, or a volume, that is kept, and correct database_keys", "%s %s", f.Path(), why)
	}
}

// keyContents checks that the folder has every key that the database needs, and that each fits.
func (d *doctor) keyContents(ctx context.Context, f *bodykeys.Folder) {
	k, err := storage.CheckKeys(ctx, d.cfg.DSN(), f)
	if err != nil {
		d.say(keyCheck, warning, "", "the keys cannot be compared with the database: %v%s", err, config.OwnerOf(err))
		return
	}
	const restore = "restore the folder from its own copy, which must be as new as the database; a copy of the database from before needs the keys of its time"
	if k.Missing > 0 {
		d.say(keyCheck, failed, restore, "%d of %d keys are missing in %s: what is encrypted under them cannot be read, and the server does not start", k.Missing, k.Keys, f.Path())
	}
	for _, err := range k.Failed {
		d.say(keyCheck, failed, restore, "%v%s", err, config.OwnerOf(err))
	}
	if k.Missing == 0 && len(k.Failed) == 0 {
		d.say(keyCheck, fine, "", "%d keys are in %s; %d texts were decrypted as a sample", k.Keys, f.Path(), k.Opened)
	}
}

// keyDelay checks that keys under which something was deleted are destroyed in time.
func (d *doctor) keyDelay(state storage.KeyState) {
	if state.Pending == 0 {
		return
	}
	since := d.now().Sub(state.Oldest).Round(time.Minute)
	late := since - storage.MaxKeyDelay
	if late <= 0 {
		d.say(keyCheck, fine, "", "%d keys of deleted texts are still to be destroyed, the oldest for %s (at most %s)", state.Pending, since, storage.MaxKeyDelay)
		return
	}
	d.say(keyCheck, failed, "start the server if it is not running; otherwise look in its log for \"keys\", end a backup that hangs, and run ebb purge now --all",
		"%d keys of deleted texts are still to be destroyed, the oldest for %s: it is %s late, and until then what was deleted can be read in the log of PostgreSQL and in copies of the database",
		state.Pending, since, late)
}

// keyPlace checks that the keys are kept apart from the database and its backups, and that there is a copy of them.
func (d *doctor) keyPlace(state storage.KeyState) {
	keys, copies := d.cfg.BodyKeys(), d.cfg.Backup.Keys
	const apart = "move one of them, and correct the configuration: whoever gets both can read what was deleted"
	switch {
	case copies == "":
		d.say(keyCheck, warning, "set backup.keys to a folder on another disk or host than the backups, or copy the keys yourself, with a mirror that also deletes",
			"there is no copy of the keys: with %s all messages are lost", keys)
	case within(d.cfg.File(copies), keys) || within(keys, d.cfg.File(copies)):
		d.say(keyCheck, failed, "name another folder, on another disk", "backup.keys and database_keys are in the same folder: they are lost together")
	}
	if dir := state.ServerDir; dir != "" && within(dir, keys) {
		d.say(keyCheck, failed, apart, "the keys, %s, are in the folder of PostgreSQL, %s: every copy of it has both", keys, dir)
	} else if dir != "" && sameDisk(dir, keys) {
		d.say(keyCheck, warning, "this is fine if nobody keeps snapshots or images of that disk; otherwise move the keys to another one", "the keys and the database are on the same file system")
	}
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(resolved(dir), resolved(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// resolved returns a path without symbolic links, if it exists.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// sameDisk reports whether two paths are on one file system.
func sameDisk(a, b string) bool {
	var devices [2]uint64
	for i, path := range []string{a, b} {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false
		}
		devices[i] = stat.Dev
	}
	return devices[0] == devices[1]
}
