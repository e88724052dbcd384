package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

func TestProfileFieldsAreKeptAsTheyWereSet(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		who := mustSession(t, s, mustCreate(t, s, "alice").Access)
		set := func(name, value string) error {
			return s.SetProfileField(t.Context(), who, name, json.RawMessage(value))
		}
		for name, value := range map[string]string{
			"displayname": `"Alice ☺"`, "avatar_url": `"mxc://here/a"`, "m.tz": `"Europe/London"`,
			"org.example.pronouns": `[{"summary":"they","n":1.50}]`, "org.example.nothing": `null`, "com.example-x.a_b": `"x"`,
		} {
			if err := set(name, value); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got, err := s.ProfileField(t.Context(), who.UserID, name); string(got) != value || err != nil {
				t.Errorf("%s: %s, %v", name, got, err)
			}
		}
		if fields, err := s.Profile(t.Context(), who.UserID); len(fields) != 6 || err != nil {
			t.Errorf("%v, %v", fields, err)
		}
		if name, avatar, err := s.MemberProfile(t.Context(), who.UserID); name != "Alice ☺" || avatar != "mxc://here/a" || err != nil {
			t.Errorf("%q, %q, %v", name, avatar, err)
		}
		for _, removed := range []string{"avatar_url", "displayname"} {
			if err := set(removed, `""`); err != nil {
				t.Error(err)
			}
			_, err := s.ProfileField(t.Context(), who.UserID, removed)
			refused(t, removed, err, mxerr.CodeNotFound)
		}
		for range 2 { // the second time, the field has been removed already
			if err := s.DeleteProfileField(t.Context(), who, "m.tz"); err != nil {
				t.Error(err)
			}
		}
		_, err := s.ProfileField(t.Context(), who.UserID, "m.tz")
		refused(t, "m.tz", err, mxerr.CodeNotFound)
		_, err = s.Profile(t.Context(), "@nobody:here")
		refused(t, "nobody", err, mxerr.CodeNotFound)
	})
}

func TestProfileFieldsAreChecked(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		who := mustSession(t, s, mustCreate(t, s, "alice").Access)
		for _, c := range []struct{ name, value, code string }{
			{"displayname", `1`, mxerr.CodeInvalidParam},
			{"displayname", `"` + strings.Repeat("x", 257) + `"`, mxerr.CodeInvalidParam},
			{"avatar_url", `"` + strings.Repeat("x", 2000) + `"`, mxerr.CodeInvalidParam},
			{"avatar_url", `{}`, mxerr.CodeInvalidParam},
			{"m.tz", `null`, mxerr.CodeInvalidParam},
			{"Upper.case", `1`, mxerr.CodeInvalidParam},
			{"nodot", `1`, mxerr.CodeInvalidParam},
			{"1.a", `1`, mxerr.CodeInvalidParam},
			{"a b.c", `1`, mxerr.CodeInvalidParam},
			{"é.x", `1`, mxerr.CodeInvalidParam},
			{"", `1`, mxerr.CodeInvalidParam},
			{"a." + strings.Repeat("x", 254), `1`, "M_KEY_TOO_LARGE"},
		} {
			refused(t, c.name+"="+c.value, s.SetProfileField(t.Context(), who, c.name, json.RawMessage(c.value)), c.code)
		}
		if err := s.SetProfileField(t.Context(), who, "a."+strings.Repeat("x", 253), json.RawMessage(`1`)); err != nil {
			t.Errorf("a key of 255 bytes: %v", err)
		}
		refused(t, "delete", s.DeleteProfileField(t.Context(), who, "nodot"), mxerr.CodeInvalidParam)
	})
}

func TestAProfileHasAtMost64KiB(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		who := mustSession(t, s, mustCreate(t, s, "alice").Access)
		set := func(name string, n int) error {
			return s.SetProfileField(t.Context(), who, name, json.RawMessage(`"`+strings.Repeat("x", n)+`"`))
		}
		if err := set("org.example.a", 40_000); err != nil {
			t.Fatal(err)
		}
		refused(t, "both together", set("org.example.b", 30_000), "M_PROFILE_TOO_LARGE")
		_, err := s.ProfileField(t.Context(), who.UserID, "org.example.b")
		refused(t, "what was refused", err, mxerr.CodeNotFound)
		if err := set("org.example.a", 30_000); err != nil { // a smaller value frees space
			t.Fatal(err)
		}
		if err := set("org.example.b", 30_000); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTheLastNameOfConcurrentChangesIsAnnouncedLast(t *testing.T) {
	var mu sync.Mutex
	var told []string
	running := 0
	hooks := Hooks{ProfileChanged: func(_ context.Context, _ ident.UserNID, user id.UserID, displayName, avatarURL string) error {
		mu.Lock()
		defer mu.Unlock()
		if running++; running > 1 {
			t.Error("two passes of one user at a time")
		}
		told = append(told, displayName)
		running--
		return nil
	}}
	each(t, Options{Hooks: hooks}, func(t *testing.T, s *Service, _ *clock) {
		told = nil
		who := mustSession(t, s, mustCreate(t, s, "alice").Access)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if err := s.SetProfileField(t.Context(), who, "displayname", json.RawMessage(fmt.Sprintf(`"name %d"`, i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		name, _, err := s.MemberProfile(t.Context(), who.UserID)
		if err != nil || len(told) == 0 || told[len(told)-1] != name {
			t.Errorf("rooms were told %v, the name is %q, %v", told, name, err)
		}
		if len(s.announcer.states) != 0 {
			t.Error("announcements are left behind")
		}
		before := len(told)
		if err := s.SetProfileField(t.Context(), who, "org.example.x", json.RawMessage(`1`)); err != nil || len(told) != before {
			t.Errorf("rooms were told of a field that they do not show: %v", err)
		}
	})
}

// join makes users members of a room as far as the user directory can see.
func join(t *testing.T, s *Service, room ident.RoomNID, users ...ident.Requester) {
	t.Helper()
	err := s.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
		for _, u := range users {
			if err := tx.SetMembership(storage.MemberRow{User: u.UserNID, Room: room, Membership: "join", Position: 1, JoinedPos: 1}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheDirectoryFindsVisibleUsers(t *testing.T) {
	const private, public, other = 1001, 1002, 1003
	each(t, Options{Hooks: Hooks{Exclusive: func(_, localpart string) bool { return localpart == "ghost" }}}, func(t *testing.T, s *Service, _ *clock) {
		users := map[string]ident.Requester{}
		for _, name := range []string{"alice", "bob", "carol", "dave", "eve", "frank", "ghost"} {
			users[name] = mustSession(t, s, mustCreate(t, s, name).Access)
		}
		join(t, s, private, users["alice"], users["bob"], users["frank"], users["ghost"])
		join(t, s, public, users["carol"])
		join(t, s, other, users["dave"]) // a room that is neither shared nor public
		openRoom(t, s, public, `"m.room.join_rules","content":{"join_rule":"public"}`)
		openRoom(t, s, other, `"m.room.history_visibility","content":{"history_visibility":"shared"}`)
		for name, display := range map[string]string{"bob": "Robert Ünder_100%", "carol": "Carol", "dave": "Robert"} {
			setName(t, s, users[name], display)
		}
		if err := s.SetLocked(t.Context(), ident.Requester{}, users["frank"].UserID, true); err != nil {
			t.Fatal(err)
		}
		for term, want := range map[string]string{
			"rob": "@bob:here", "ROBERT ü": "@bob:here", "@bob": "@bob:here", "100%": "@bob:here", "under rob": "@bob:here", "ob": "@bob:here",
			"carol": "@carol:here", "dave": "", "eve": "", "alice": "", "x%y": "", "_": "", `\`: "", "": "", "  ": "", "%": "", "robert x": "",
			":here": "@bob:here @carol:here", "frank": "", "ghost": "",
		} {
			found, limited, err := s.Search(t.Context(), users["alice"].UserNID, term, 10)
			if got := names(found); got != want || limited || err != nil {
				t.Errorf("%q: %v (limited %v), %v; want %q", term, got, limited, err, want)
			}
		}
		found, limited, err := s.Search(t.Context(), users["alice"].UserNID, ":here", 1)
		if len(found) != 1 || found[0].DisplayName != "Robert Ünder_100%" || !limited || err != nil {
			t.Errorf("one of two: %v, limited %v, %v", found, limited, err)
		}
		if found, limited, err := s.Search(t.Context(), users["alice"].UserNID, ":here", 2); len(found) != 2 || limited || err != nil {
			t.Errorf("two of two: %v, limited %v, %v", found, limited, err)
		}
		if found, _, err := s.Search(t.Context(), users["carol"].UserNID, "carol", 10); len(found) != 1 || err != nil {
			t.Errorf("who is in a public room finds themselves: %v, %v", found, err)
		}
		openRoom(t, s, other, `"m.room.history_visibility","content":{"history_visibility":"world_readable"}`)
		if found, _, err := s.Search(t.Context(), users["alice"].UserNID, "dave", 10); len(found) != 1 || err != nil {
			t.Errorf("a member of a world-readable room: %v, %v", found, err)
		}
		_, _, err = s.Search(t.Context(), 1, strings.Repeat("x", 300), 10)
		refused(t, "a long term", err, mxerr.CodeInvalidParam)
		_, _, err = s.Search(t.Context(), 1, "x", -1)
		refused(t, "a negative limit", err, mxerr.CodeInvalidParam)
		if err := s.Deactivate(t.Context(), users["bob"].UserID, NotErased); err != nil {
			t.Fatal(err)
		}
		if found, _, err := s.Search(t.Context(), users["alice"].UserNID, "bob", 10); len(found) != 0 || err != nil {
			t.Errorf("a deactivated user is found: %v, %v", found, err)
		}
	})
}

// openRoom stores a state event of a room.
func openRoom(t *testing.T, s *Service, room ident.RoomNID, typeAndContent string) {
	t.Helper()
	typ := strings.Split(typeAndContent, `"`)[1]
	err := s.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
		e := storage.EventRow{Position: tx.NextPos(), Room: room, Type: typ, IsState: true, JSON: []byte(`{"type":` + typeAndContent + `}`)}
		e.EventID = fmt.Sprint("$", e.Position)
		if err := tx.InsertEvent(&e); err != nil {
			return err
		}
		return tx.SetCurrentState(room, typ, "", e.Position, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func setName(t *testing.T, s *Service, user ident.Requester, name string) {
	t.Helper()
	if err := s.SetProfileField(t.Context(), user, "displayname", json.RawMessage(`"`+name+`"`)); err != nil {
		t.Fatal(err)
	}
}

func names(found []Found) string {
	var users []string
	for _, f := range found {
		users = append(users, string(f.User))
	}
	return strings.Join(users, " ")
}

func TestTheDirectoryFindsAllUsersIfConfigured(t *testing.T) {
	each(t, Options{SearchAllUsers: true}, func(t *testing.T, s *Service, _ *clock) {
		alice := mustSession(t, s, mustCreate(t, s, "alice").Access)
		mustCreate(t, s, "bob")
		if found, limited, err := s.Search(t.Context(), alice.UserNID, "bob", 10); names(found) != "@bob:here" || limited || err != nil {
			t.Errorf("%v, limited %v, %v", found, limited, err)
		}
	})
}

func TestTheDirectoryRanksAndFoldsNames(t *testing.T) {
	each(t, Options{SearchAllUsers: true}, func(t *testing.T, s *Service, _ *clock) {
		people := map[string]string{
			"anna": "Zoë", "u1": "Anna", "u2": "Ännä Björk", "u3": "Joanna", "u4": "Maria Anna", "u5": "田中太郎", "u6": "Ñandú Ångström",
			"u7": "ΑΛΈΞΑΝΔΡΟΣ", "u8": "Ольга Ёлкина", "x.y": "\ufb01nn", "u9": "안녕 하세요",
		}
		asks := mustSession(t, s, mustCreate(t, s, "asks").Access)
		for localpart, name := range people {
			setName(t, s, mustSession(t, s, mustCreate(t, s, localpart).Access), name)
		}
		for term, want := range map[string]string{
			"anna":   "@anna:here @u1:here @u2:here @u4:here @u3:here", // equal, equal, begins with it, has a word, contains it within a word
			"ANNÄ b": "@u2:here", "bjork anna": "@u2:here", "太郎": "@u5:here", "田中": "@u5:here", "nandu": "@u6:here", "angstrom": "@u6:here",
			"αλεξανδρος": "@u7:here", "елкина": "@u8:here", "FINN": "@x.y:here", "x.y": "@x.y:here", "@x.y:here": "@x.y:here", "안녕": "@u9:here",
			"y x here finn here": "@x.y:here", "y x here finn missing": "",
		} {
			found, limited, err := s.Search(t.Context(), asks.UserNID, term, 10)
			if got := names(found); got != want || limited || err != nil {
				t.Errorf("%q: %v (limited %v), %v; want %q", term, got, limited, err, want)
			}
		}
	})
}

func TestAccountsAreSearchableAfterAnUpgrade(t *testing.T) {
	each(t, Options{SearchAllUsers: true}, func(t *testing.T, s *Service, _ *clock) {
		var all []ident.Requester
		for _, name := range []string{"alice", "bob", "carol"} {
			all = append(all, mustSession(t, s, mustCreate(t, s, name).Access))
		}
		setName(t, s, all[1], "Robert")
		if err := s.Deactivate(t.Context(), all[2].UserID, NotErased); err != nil {
			t.Fatal(err)
		}
		err := s.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
			return errors.Join(tx.SetSearch(all[0].UserNID, ""), tx.SetSearch(all[1].UserNID, ""))
		})
		if err != nil {
			t.Fatal(err)
		}
		if found, _, err := s.Search(t.Context(), all[0].UserNID, "here", 10); len(found) != 0 || err != nil {
			t.Fatalf("found before: %v, %v", found, err)
		}
		if err := s.fillDirectory(t.Context()); err != nil {
			t.Fatal(err)
		}
		if found, _, err := s.Search(t.Context(), all[0].UserNID, "here", 10); names(found) != "@alice:here @bob:here" || err != nil {
			t.Errorf("found after: %v, %v", found, err)
		}
		if found, _, err := s.Search(t.Context(), all[0].UserNID, "robert", 10); names(found) != "@bob:here" || err != nil {
			t.Errorf("found by name: %v, %v", found, err)
		}
	})
}
