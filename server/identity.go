package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ebb/config"
	"ebb/fedclient"
	"ebb/secrets"
	"ebb/storage"
)

// checkIdentity returns an error if another server has written the database. A database without an identity gets this
// server's.
func checkIdentity(ctx context.Context, db *storage.DB, cfg *config.Config, keys *fedclient.SigningKeys) error {
	was, err := readIdentity(ctx, db)
	if err != nil {
		return err
	}
	if err := errors.Join(refuseOtherName(was, cfg), refuseOtherKey(was, cfg, keys)); err != nil {
		return err
	}
	now := storage.Identity{ServerName: cfg.ServerName, SigningKey: fedclient.PublicLine(keys.Current())}
	if was.Identity == now {
		return nil
	}
	return db.Write(ctx, func(tx *storage.Tx) error { return tx.SetIdentity(now) })
}

// readIdentity returns the identity recorded in the database. If none is recorded, it derives one from the accounts.
func readIdentity(ctx context.Context, db *storage.DB) (was storage.Peeked, err error) {
	err = db.Read(ctx, func(tx *storage.Tx) (err error) {
		if was.Identity, err = tx.Identity(); err == nil {
			was.Account, err = tx.AnyAccount()
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("read the identity of the database: %w", err)
	}
	return was, err
}

// refuseOtherName returns an error if the database belongs to a server with another name.
func refuseOtherName(was storage.Peeked, cfg *config.Config) error {
	name := was.ServerName
	if _, of, found := strings.Cut(was.Account, ":"); found && name == "" {
		name = of
	}
	if name == "" || name == cfg.ServerName {
		return nil
	}
	return fmt.Errorf("the database belongs to %q, but server_name is %q: a server cannot be renamed; restore server_name, or give the new server its own data_dir and database",
		name, cfg.ServerName)
}

// refuseOtherKey returns an error if the database was last used with a signing key that is neither the current key nor
// one of the former keys in the key files.
func refuseOtherKey(was storage.Peeked, cfg *config.Config, keys *fedclient.SigningKeys) error {
	if was.SigningKey == "" || keys.Knows(was.SigningKey) {
		return nil
	}
	return fmt.Errorf("the signing key in %s is %s, but the database was used with %s: restore the previous signing.key and signing.key.old; "+
		"if they are lost, remove the present key files and run ebb keys create", cfg.KeyFile(), fedclient.PublicLine(keys.Current()), was.SigningKey)
}

// CreateSigningKey creates a new signing key for a server that has lost its key. It adds the lost public key, which the
// database records, to the former keys, so that old signatures stay valid.
func CreateSigningKey(ctx context.Context, cfg *config.Config, o Options) error {
	o.setDefaults()
	db, err := openDatabase(ctx, cfg, o)
	if err != nil {
		return err
	}
	err = func() error {
		was, err := readIdentity(ctx, db)
		if err = errors.Join(err, refuseOtherName(was, cfg)); err != nil {
			return err
		}
		if err := fedclient.CreateKeyAfter(cfg.KeyFile(), was.SigningKey, o.Now()); err != nil {
			return err
		}
		keys, err := fedclient.LoadSigningKeys(cfg.KeyFile(), cfg.ServerName)
		if err != nil {
			return err
		}
		return checkIdentity(ctx, db, cfg, keys)
	}()
	return errors.Join(err, db.Close())
}

// keepPrivate removes other users' permissions on the server's files in data_dir, which also makes the files inside the
// media and certificate folders inaccessible to them. It does not change the configuration file.
func keepPrivate(cfg *config.Config) error {
	for _, name := range []string{"signing.key", "signing.key.old", secrets.File, "registration-token", "media", "acme"} {
		path := filepath.Join(cfg.Dir(), name)
		info, err := os.Stat(path)
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			err = os.Chmod(path, info.Mode().Perm()&^0o077)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep data_dir private: %w%s", err, config.OwnerOf(err))
		}
	}
	return nil
}
