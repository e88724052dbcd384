package storage_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"ebb/storage"
)

// notSealed says why the content of other tables is not sealed.
var notSealed = map[string]string{
	"edu_outbox":  "messages between devices, which clients encrypt",
	"to_device":   "messages between devices, which clients encrypt",
	"backup_keys": "encrypted by the client of the user",
}

var contentRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|[^|]*\\*\\*(?:content|reason)\\*\\*.*$")

// TestContentOnPostgreSQLIsSealed compares the tables that have content according to docs/storage.md, which must list
// every table, with those whose texts are sealed. A new table with content must be sealed, or be listed in notSealed.
func TestContentOnPostgreSQLIsSealed(t *testing.T) {
	page, err := os.ReadFile("../docs/storage.md")
	ok(t, err)
	content := map[string]bool{}
	for _, row := range contentRow.FindAllSubmatch(page, -1) {
		content[string(row[1])] = true
	}
	sealed := map[string]bool{}
	for _, query := range storage.SealedUpdates() {
		sealed[regexp.MustCompile(`^UPDATE (\w+) SET`).FindStringSubmatch(query)[1]] = true
	}
	for _, table := range slices.Sorted(maps.Keys(content)) {
		if !sealed[table] && notSealed[table] == "" {
			t.Errorf("table %s has content that is not encrypted on PostgreSQL: add it to storage.sealedColumns, or say in notSealed why not", table)
		}
	}
	for _, table := range []string{"events", "originals", "search_parts", "delayed_events", "related_redactions", "own_redactions", "reports", "url_previews", "media_files"} {
		if !content[table] {
			t.Errorf("docs/storage.md does not say that table %s has content", table)
		}
	}
	for table := range notSealed {
		if !content[table] {
			t.Errorf("table %s has no content according to docs/storage.md", table)
		}
	}
}
