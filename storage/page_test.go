package storage_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

var (
	pageRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|(.*)\\|.*\\|$")
	quoted  = regexp.MustCompile("`([a-z_]+)`")
)

// TestStoragePageListsEveryTable compares docs/storage.md with a fresh database: its tables, and their columns of text,
// which are what could hold content.
func TestStoragePageListsEveryTable(t *testing.T) {
	page, err := os.ReadFile("../docs/storage.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]map[string]bool{}
	for _, row := range pageRow.FindAllSubmatch(page, -1) {
		columns := map[string]bool{}
		for _, c := range quoted.FindAllSubmatch(row[2], -1) {
			columns[string(c[1])] = true
		}
		listed[string(row[1])] = columns
	}
	there := textColumns(t)
	for _, table := range slices.Sorted(maps.Keys(there)) {
		columns, ok := listed[table]
		if !ok {
			t.Errorf("docs/storage.md does not say what table %s holds and what purges it", table)
			continue
		}
		for _, c := range there[table] {
			if !columns[c] {
				t.Errorf("docs/storage.md does not say what column %s of table %s holds", c, table)
			}
		}
		for c := range columns {
			if !slices.Contains(there[table], c) {
				t.Errorf("docs/storage.md names %s in table %s, which is no column of text there", c, table)
			}
		}
	}
	name := regexp.MustCompile(`^[a-z_]+$`) // files have a dot, a slash or a dash
	for table := range listed {
		if there[table] == nil && name.MatchString(table) {
			t.Errorf("docs/storage.md names table %s, which the database does not have", table)
		}
	}
}

// textColumns lists the columns of every table that are not numbers.
func textColumns(t *testing.T) map[string][]string {
	t.Helper()
	db := storagetest.Open(t, storage.Config{})
	tables := map[string][]string{}
	err := db.Read(ctx, func(tx *storage.Tx) error {
		return tx.Each(func(r storage.Row) error {
			var table, column, kind string
			if err := r.Scan(&table, &column, &kind); err != nil {
				return err
			}
			columns := tables[table]
			if columns == nil {
				columns = []string{}
			}
			if kind != "BIGINT" && kind != "INTEGER" {
				columns = append(columns, column)
			}
			tables[table] = columns
			return nil
		}, `SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'`)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(tables) < 10 {
		t.Fatalf("the database has only the tables %v", tables)
	}
	return tables
}
