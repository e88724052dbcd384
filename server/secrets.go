package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"ebb/config"
	"ebb/secrets"
	"ebb/storage"
)

// openSecrets reads the key file of the secrets. Only the first start creates the file: if a later start replaced a
// lost file, nobody would notice that what is encrypted in the database is lost.
func openSecrets(ctx context.Context, db *storage.DB, cfg *config.Config) (*secrets.Ring, error) {
	used := ""
	err := db.Read(ctx, func(tx *storage.Tx) (err error) {
		used, err = tx.SecretsKey()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read which key encrypts the secrets: %w", err)
	}
	path := filepath.Join(cfg.Dir(), secrets.File)
	if used != "" && !secrets.Exists(cfg.Dir()) {
		return nil, fmt.Errorf("%s is missing, under which secrets in the database are encrypted: restore it from a backup or from another node; "+
			"if it is lost, run ebb keys create, and have second factors set up again", path)
	}
	load := secrets.Load
	if !secrets.Exists(cfg.Dir()) {
		load = secrets.Create
	}
	ring, err := load(cfg.Dir())
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, config.OwnerOf(err))
	}
	if used != "" && !ring.Has(used) {
		return nil, fmt.Errorf("%s does not have the key %s, under which secrets in the database are encrypted: restore the file that belongs to this database", path, used)
	}
	return ring, recordSecretsKey(ctx, db, ring, used)
}

// recordSecretsKey records the ID of the current key in the database, unless it is recorded there already.
func recordSecretsKey(ctx context.Context, db *storage.DB, ring *secrets.Ring, used string) error {
	if used == ring.Current() {
		return nil
	}
	return db.Write(ctx, func(tx *storage.Tx) error { return tx.SetSecretsKey(ring.Current()) })
}

// CreateSecretsKey creates a key file of the secrets for a server that has lost its own. What is encrypted in the
// database cannot be read any more.
func CreateSecretsKey(ctx context.Context, cfg *config.Config, o Options) error {
	o.setDefaults()
	db, err := openDatabase(ctx, cfg, o)
	if err != nil {
		return err
	}
	ring, err := secrets.Create(cfg.Dir())
	if err == nil {
		err = recordSecretsKey(ctx, db, ring, "")
	}
	return errors.Join(err, db.Close())
}
