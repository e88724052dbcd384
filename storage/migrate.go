package storage

import (
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// createMeta is the one table that stands before all migrations.
const createMeta = `CREATE TABLE IF NOT EXISTS meta (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL, secret TEXT NOT NULL DEFAULT '')`

// ErrNewerSchema: the database was written by a newer Ebb.
var ErrNewerSchema = errors.New("the database has a newer schema than this version of Ebb knows; run the newer version")

// migrate brings the schema up to date, one transaction per file.
func migrate(c *conn, d dialect) error {
	if _, err := c.exec(createMeta); err != nil {
		return full(fmt.Errorf("create meta: %w", err))
	}
	have, err := schemaVersion(c)
	if err != nil {
		return err
	}
	files, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		return err
	}
	newest := int64(0)
	for _, f := range files {
		n, err := strconv.ParseInt(f.Name()[:4], 10, 64)
		if err != nil {
			return fmt.Errorf("migration %s has no number", f.Name())
		}
		newest = max(newest, n)
		if n <= have {
			continue
		}
		if err := migrateOne(c, d, f.Name(), n); err != nil {
			return full(fmt.Errorf("migration %s: %w", f.Name(), err))
		}
	}
	if have > newest {
		return fmt.Errorf("%w (schema %d, known %d)", ErrNewerSchema, have, newest)
	}
	return nil
}

func schemaVersion(c *conn) (v int64, err error) {
	err = c.query(func(r Row) error { return r.Scan(&v) }, `SELECT value FROM meta WHERE name = 'schema'`)
	return v, err
}

func migrateOne(c *conn, d dialect, file string, n int64) error {
	text, err := migrationFiles.ReadFile("migrations/" + file)
	if err != nil {
		return err
	}
	if err := c.beginWrite(); err != nil {
		return err
	}
	for _, statement := range statements(string(text), d) {
		if _, err := c.exec(statement); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", head(statement), err), c.rollback())
		}
	}
	const set = `INSERT INTO meta (name, value) VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`
	if _, err := c.exec(set, n); err != nil {
		return errors.Join(err, c.rollback())
	}
	return c.commit()
}

// statements splits a file at semicolons that end a line. Lines that begin with "-- only: NAME " belong to that dialect
// alone; other comments go.
func statements(text string, d dialect) []string {
	var kept []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "-- only: "); ok {
			if line, ok = strings.CutPrefix(rest, d.name()+" "); !ok {
				continue
			}
		}
		code, _, _ := strings.Cut(line, "--")
		kept = append(kept, strings.TrimRight(code, " \t\r\n"))
	}
	text = strings.ReplaceAll(strings.Join(kept, "\n"), "{pk}", d.rowKey())
	parts := strings.Split(text, ";\n")
	for i := range parts {
		parts[i] = strings.TrimSuffix(strings.TrimSpace(parts[i]), ";")
	}
	return slices.DeleteFunc(parts, func(s string) bool { return s == "" })
}

// meta is what the database says of itself.
type meta struct {
	position int64
	idKey    []byte
}

// readMeta reads the high-water position and the secret of this database, which are made on the first start.
func readMeta(c *conn) (m meta, err error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails (crypto/rand)
	const add = `INSERT INTO meta (name, value, secret) VALUES ($1, 0, $2) ON CONFLICT (name) DO NOTHING`
	if _, err := c.exec(add, "position", ""); err != nil {
		return m, full(err)
	}
	if _, err := c.exec(add, "id_key", hex.EncodeToString(secret[:])); err != nil {
		return m, full(err)
	}
	if err := c.query(func(r Row) error { return r.Scan(&m.position) }, `SELECT value FROM meta WHERE name = 'position'`); err != nil {
		return m, err
	}
	var key string
	if err := c.query(func(r Row) error { return r.Scan(&key) }, `SELECT secret FROM meta WHERE name = 'id_key'`); err != nil {
		return m, err
	}
	m.idKey, err = hex.DecodeString(key)
	return m, err
}
