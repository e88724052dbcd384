package storage

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// metaFile creates the table that records the applied files. It does not record itself.
const metaFile = "0000_meta.sql"

// ErrNewerSchema means that a newer version of Ebb has migrated the database.
var ErrNewerSchema = errors.New("the database has a newer schema than this version of Ebb knows; run the newer version")

// migrate applies the files that the database has not recorded yet, in order, each in a transaction of its own. For a
// new database it uses a single transaction, which otherwise would wait for the disk some twenty times.
func migrate(c conn, d dialect, files fs.FS, log *slog.Logger) error {
	names, err := fs.Glob(files, "*.sql") // sorted
	if err != nil {
		return err
	}
	start := time.Now()
	applied, err := appliedMigrations(c)
	if err != nil { // there is no table meta, or the database cannot be read, and then apply fails too
		if err := apply(c, d, files, names...); err != nil {
			return err
		}
		log.Info("a new database was created", "migrations", len(names)-1, "took", time.Since(start))
		return nil
	}
	if err := refuseNewer(applied, names); err != nil {
		return err
	}
	for _, name := range names {
		if name == metaFile || slices.Contains(applied, name) {
			continue
		}
		began := time.Now()
		if err := apply(c, d, files, name); err != nil {
			return err
		}
		log.Info("the database was migrated", "migration", name, "took", time.Since(began))
	}
	return nil
}

// refuseNewer returns ErrNewerSchema if a migration that was applied to the database is not among the known ones.
func refuseNewer(applied, known []string) error {
	for _, name := range applied {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%w (it has %s)", ErrNewerSchema, name)
		}
	}
	return nil
}

const migrationPrefix = "migration "

func appliedMigrations(c conn) (names []string, err error) {
	err = c.query(func(r Row) error {
		var name string
		err := r.Scan(&name)
		names = append(names, strings.TrimPrefix(name, migrationPrefix))
		return err
	}, `SELECT name FROM meta WHERE name LIKE 'migration %' ORDER BY name`)
	return names, err
}

// apply runs the files in one transaction.
func apply(c conn, d dialect, files fs.FS, names ...string) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(full(err), c.rollback())
		}
	}()
	if err := c.begin(true); err != nil {
		return fmt.Errorf("migration %s: %w", names[0], err)
	}
	for _, name := range names {
		if err := applyFile(c, d, files, name); err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
	}
	return c.commit()
}

func applyFile(c conn, d dialect, files fs.FS, name string) error {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return err
	}
	for _, statement := range statements(string(text), d) {
		if _, err := c.exec(statement); err != nil {
			return fmt.Errorf("%s: %w", head(statement), err)
		}
	}
	if name == metaFile {
		return nil
	}
	_, err = c.exec(addMetaQuery, migrationPrefix+name, "")
	return err
}

// statements splits a file at semicolons that end a line. Lines that begin with "-- only: NAME " are included for that
// dialect only. Other comments are removed.
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
	text = strings.ReplaceAll(strings.Join(kept, "\n")+"\n", "{pk}", d.rowKey())
	parts := strings.Split(text, ";\n")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return slices.DeleteFunc(parts, func(s string) bool { return s == "" })
}
