package storage_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

var (
	pageRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|(.*)\\|.*\\|$")
	quoted  = regexp.MustCompile("`([a-z_]+)`")
)

// TestStoragePageListsEveryTable compares docs/storage.md with the tables of a fresh database and their text columns,
// which could hold content.
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

// textColumns returns the columns of each table that are not numbers.
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

// readAtOnce matches the methods that return a list or a map, with their parameters.
var readAtOnce = regexp.MustCompile(`(?m)^func \(tx \*Tx\) ([A-Z]\w*)\((.*)\) \(?(?:\w+ )?(?:\[\]|map\[)`)

func TestStoragePageListsEveryQueryWithoutLimit(t *testing.T) {
	page, err := os.ReadFile("../docs/storage.md")
	ok(t, err)
	_, section, _ := strings.Cut(string(page), "\n## What is read at once\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(section, -1) {
		for _, name := range regexp.MustCompile("`([A-Z]\\w*)`").FindAllStringSubmatch(row, -1) {
			listed[name[1]] = true
		}
	}
	there := map[string]bool{}
	files, err := filepath.Glob("*.go")
	ok(t, err)
	for _, name := range files {
		source, err := os.ReadFile(name)
		ok(t, err)
		for _, m := range readAtOnce.FindAllSubmatch(source, -1) {
			if limited := regexp.MustCompile(`\blimit\b`).Match(m[2]); !limited && !strings.HasSuffix(name, "_test.go") {
				there[string(m[1])] = true
			}
		}
	}
	if len(there) < 50 {
		t.Fatalf("only %d queries were found", len(there))
	}
	for name := range there {
		if !listed[name] {
			t.Errorf("docs/storage.md does not say what bounds the answer of %s", name)
		}
	}
	for name := range listed {
		if !there[name] {
			t.Errorf("docs/storage.md names %s, which is not a query without a limit", name)
		}
	}
}
