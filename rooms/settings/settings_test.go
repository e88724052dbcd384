package settings_test

import (
	"testing"

	"ebb/ident"
	"ebb/rooms/settings"
	"ebb/storage"
	"ebb/storage/storagetest"
)

const user, old, replacement = 5, 1, 2

func TestCopyTags(t *testing.T) {
	const tags = `{"tags":{"m.favourite":{"order":0.1}}}`
	for _, c := range []struct {
		why, old, there string // "": no tags
		want            string
	}{
		{"no tags", "", "", ""},
		{"tags follow", tags, "", tags},
		{"tags of the new room stay", tags, `{"tags":{}}`, `{"tags":{}}`},
		{"no tags, but the new room has some", "", tags, tags},
	} {
		db := storagetest.Open(t, storage.Config{})
		err := db.Write(t.Context(), func(tx *storage.Tx) error {
			for room, content := range map[ident.RoomNID]string{old: c.old, replacement: c.there} {
				if content == "" {
					continue
				}
				if err := set(tx, room, settings.TypeTags, content); err != nil {
					return err
				}
			}
			changed, err := settings.CopyTags(tx, user, old, replacement)
			if err != nil {
				return err
			}
			got, _, err := tx.AccountData(user, replacement, settings.TypeTags)
			if got != c.want || changed != (c.want != c.there) {
				t.Errorf("%s: %s, changed %v", c.why, got, changed)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func TestCopyDirect(t *testing.T) {
	for _, c := range []struct{ why, before, want string }{
		{"nothing set", "", ""},
		{"another room", `{"@bob:x":["!b:x"]}`, ""},
		{"the room of one user", `{"@bob:x":["!a:x","!b:x"],"@carol:x":["!c:x"]}`, `{"@bob:x":["!a:x","!b:x","!new:x"],"@carol:x":["!c:x"]}`},
		{"the room of two users", `{"@bob:x":["!a:x"],"@carol:x":["!a:x"]}`, `{"@bob:x":["!a:x","!new:x"],"@carol:x":["!a:x","!new:x"]}`},
		{"it is listed already", `{"@bob:x":["!a:x","!new:x"]}`, ""},
		{"another shape", `{"@bob:x":"!a:x"}`, ""},
		{"partly another shape", `{"@bob:x":["!a:x"],"@carol:x":{"!a:x":1}}`, ""},
		{"null", `null`, ""},
	} {
		db := storagetest.Open(t, storage.Config{})
		err := db.Write(t.Context(), func(tx *storage.Tx) error {
			if c.before != "" {
				if err := set(tx, 0, settings.TypeDirect, c.before); err != nil {
					return err
				}
			}
			changed, err := settings.CopyDirect(tx, user, "!a:x", "!new:x")
			if err != nil {
				return err
			}
			want := c.want
			if want == "" {
				want = c.before
			}
			got, _, err := tx.AccountData(user, 0, settings.TypeDirect)
			if got != want || changed != (c.want != "") {
				t.Errorf("%s: %s, changed %v; want %s", c.why, got, changed, want)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func set(tx *storage.Tx, room ident.RoomNID, typ, content string) error {
	return tx.SetAccountData(user, room, typ, content)
}
