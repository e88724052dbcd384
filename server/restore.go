package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ebb/backup"
	"ebb/bodykeys"
	"ebb/config"
	"ebb/secrets"
	"ebb/storage"
)

// RestoreOptions says what to restore.
type RestoreOptions struct {
	Backup     string // the folder of one backup
	Identities []backup.Identity
	Ledger     string                                       // "": none; then deletions since the backup are lost, and all sessions end
	Keys       string                                       // the folder with the keys of messages, for a backup that has such
	Damaged    bool                                         // use the undamaged beginning of a damaged ledger
	Load       func(ctx context.Context, r io.Reader) error // loads a dump into PostgreSQL
	Progress   func(step string)
}

// RestoreReport says what Restore has done.
type RestoreReport struct {
	Created   time.Time      `json:"created"` // when the backup was made
	Replayed  map[string]int `json:"replayed"`
	LedgerEnd *time.Time     `json:"ledger_end,omitempty"` // the time of the last entry of the ledger
	SignedOut bool           `json:"signed_out"`           // whether all sessions were ended
	Passwords []string       `json:"passwords,omitempty"`  // users whose password has to be set again
	Purged    int            `json:"purged"`               // messages that had expired since the backup
	// Holds are the numbers of legal holds on rooms and users that the backup does not have.
	Holds []int64 `json:"holds,omitempty"`
}

// restoringFile is the name of a file in data_dir that exists while a restore is not complete.
const restoringFile = "restore.incomplete"

// refuseUnrestored returns an error if the files in data_dir are from a restore that was not completed.
func refuseUnrestored(cfg *config.Config, o Options) error {
	switch _, err := os.Lstat(filepath.Join(cfg.Dir(), restoringFile)); {
	case o.restoring || errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("a restore into %s was interrupted: run ebb restore again, which begins anew", cfg.Dir())
}

// keyFiles lists the files of data_dir that a backup has.
var keyFiles = []string{"signing.key", "signing.key.old", secrets.File}

// BackupFiles returns the names in a backup and the paths of the keys and the configuration.
func BackupFiles(cfg *config.Config) map[string]string {
	files := map[string]string{ConfigInBackup: cfg.Path()}
	for _, name := range keyFiles {
		files[name] = filepath.Join(cfg.Dir(), name)
	}
	return files
}

// ConfigInBackup is the name of the configuration in a backup.
const ConfigInBackup = "ebb.yaml"

// restore is a restore that is running.
type restore struct {
	RestoreOptions
	cfg      *config.Config
	opt      Options
	manifest *backup.Manifest
	report   RestoreReport
	position storage.Pos // of the backup; ledger entries with a higher one were made after it
}

// Restore restores a backup into an empty data_dir, deletes again what was deleted after it, and purges what has
// expired. Nothing can be served before it has returned: until then, the server refuses to start. If Restore was
// interrupted, it must be called again, and begins anew.
func Restore(ctx context.Context, cfg *config.Config, o Options, ro RestoreOptions) (RestoreReport, error) {
	o.setDefaults()
	o.restoring = true
	r := &restore{RestoreOptions: ro, cfg: cfg, opt: o}
	r.report.Replayed = map[string]int{}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"verifying the backup", r.verify},
		{"preparing data_dir", r.prepare},
		{"decrypting", r.unpack},
		{"checking the database", func(ctx context.Context) error { return storage.CheckFile(ctx, cfg.DSN()) }},
		{"deleting and revoking again", r.replayRows},
		{"purging what has expired", r.replayServices},
		{"finishing", r.finish},
	}
	for _, s := range steps {
		if ro.Progress != nil {
			ro.Progress(s.name)
		}
		if err := s.do(ctx); err != nil {
			return r.report, err
		}
	}
	return r.report, nil
}

// verify checks the backup, and whether it belongs to this server and this version.
func (r *restore) verify(context.Context) error {
	checked, err := backup.Verify(r.Backup, r.Identities)
	if err != nil {
		return err
	}
	r.manifest = &checked.Manifest
	m := r.manifest
	r.report.Created = m.Created
	if m.Server != r.cfg.ServerName {
		return fmt.Errorf("the backup belongs to %q, but server_name is %q", m.Server, r.cfg.ServerName)
	}
	if engine := Engine(r.cfg); m.Engine != engine {
		return fmt.Errorf("the backup is of a database on %s, but the configuration names one on %s", m.Engine, engine)
	}
	if err := storage.KnowsMigration(m.Migration); err != nil {
		return err
	}
	if err := r.verifyKeys(); err != nil {
		return err
	}
	if r.Ledger == "" {
		return nil
	}
	_, err = os.Stat(r.Ledger)
	return err
}

// verifyKeys checks that the keys of messages in the backup are there, if it needs any.
func (r *restore) verifyKeys() error {
	if r.manifest.Keys == nil {
		return nil
	}
	if r.cfg.BodyKeys() == "" {
		return errors.New("messages in the backup are encrypted: set database_keys to an empty folder for their keys")
	}
	if r.Keys == "" {
		return errors.New("messages in the backup are encrypted: name the folder with their keys by --keys or backup.keys")
	}
	_, in, err := backup.OpenKeys(r.manifest, r.cfg.File(r.Keys), r.Identities)
	if err != nil {
		return err
	}
	return in.Close()
}

// importKeys restores the keys of messages.
func (r *restore) importKeys() error {
	if r.manifest.Keys == nil {
		return nil
	}
	plain, in, err := backup.OpenKeys(r.manifest, r.cfg.File(r.Keys), r.Identities)
	if err != nil {
		return err
	}
	_, err = bodykeys.Import(r.cfg.BodyKeys(), plain)
	return errors.Join(err, in.Close())
}

// Engine returns the kind of the configured database, as a manifest names it.
func Engine(cfg *config.Config) string {
	if strings.HasPrefix(cfg.DSN(), "sqlite:") {
		return "sqlite"
	}
	return "postgres"
}

// prepare checks that data_dir and the database are empty, and records that a restore has begun. It removes what an
// interrupted restore has left.
func (r *restore) prepare(ctx context.Context) error {
	dir := r.cfg.Dir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	marker := filepath.Join(dir, restoringFile)
	_, err = os.Lstat(marker)
	again := err == nil
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case path == r.cfg.Path() || path == marker || e.Name() == "lost+found":
		case again:
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is not empty (it has %s): a backup is restored only into an empty folder, so that nothing is overwritten", dir, e.Name())
		}
	}
	if again && r.manifest.Engine == "postgres" {
		// The database was empty when the restore began.
		if err := storage.Clear(ctx, r.cfg.DSN()); err != nil {
			return err
		}
	}
	if !again || r.manifest.Engine != "sqlite" {
		if _, found, err := storage.Peek(ctx, r.cfg.DSN()); err != nil || found {
			return errors.Join(err, errors.New("the database exists already: a backup is restored only into an empty one"))
		}
	}
	if _, err := bodykeys.Open(r.cfg.BodyKeys()); !again && r.manifest.Keys != nil && !errors.Is(err, bodykeys.ErrNoFolder) {
		return errors.Join(err, fmt.Errorf("%s (database_keys) has keys already: name an empty folder", r.cfg.BodyKeys()))
	}
	f, err := os.OpenFile(marker, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncFolder(dir))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// unpack decrypts the backup into data_dir and the database.
func (r *restore) unpack(ctx context.Context) error {
	if err := r.importKeys(); err != nil {
		return fmt.Errorf("restore the keys of messages: %w", err)
	}
	return backup.Unpack(ctx, r.Backup, r.Identities, backup.Target{
		Media: filepath.Join(r.cfg.Dir(), "media"),
		File: func(name string, content []byte) error {
			if !slices.Contains(keyFiles, name) {
				return nil
			}
			return os.WriteFile(filepath.Join(r.cfg.Dir(), name), content, 0o600)
		},
		Database: func(in io.Reader) error {
			path, isFile := strings.CutPrefix(r.cfg.DSN(), "sqlite:")
			if !isFile {
				return r.Load(ctx, in)
			}
			for _, suffix := range []string{"-wal", "-shm"} {
				if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			return backup.WriteFile(path, in)
		},
	})
}

// finish makes everything durable and allows the server to start.
func (r *restore) finish(context.Context) error {
	dir := r.cfg.Dir()
	if err := syncFolder(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, restoringFile)); err != nil {
		return err
	}
	return syncFolder(dir)
}
