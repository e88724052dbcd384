package server_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/adminapi"
	"ebb/config"
	"ebb/export"
	"ebb/export/archive"
	"ebb/internal/testserver"
)

// command runs a command of the control socket and decodes its result.
func command[T any](t testing.TB, s *testserver.Server, name string, args any) (result T, err error) {
	t.Helper()
	raw, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Control(t.Context(), name, raw)
	if err != nil {
		return result, err
	}
	if raw, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	return result, json.Unmarshal(raw, &result)
}

// built has an account exported, and returns the status of the export.
func built(t testing.TB, s *testserver.Server, user string) export.Status {
	t.Helper()
	return builtWith(t, s, adminapi.ExportArgs{User: user})
}

func builtWith(t testing.TB, s *testserver.Server, args adminapi.ExportArgs) export.Status {
	t.Helper()
	status, err := command[export.Status](t, s, "user export", args)
	for deadline := time.Now().Add(time.Minute); err == nil && status.State == export.Building && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		status, err = command[export.Status](t, s, "user export status", args)
	}
	if err != nil || status.State != export.Ready {
		t.Fatalf("%+v, %v", status, err)
	}
	return status
}

// download returns the export of an account, or an error if it has ended.
func download(t testing.TB, s *testserver.Server, user string) (archive []byte, err error) {
	t.Helper()
	for {
		part, err := command[adminapi.ExportPart](t, s, "user export read", adminapi.ExportArgs{User: user, Offset: int64(len(archive))})
		if err != nil || len(part.Data) == 0 {
			return archive, err
		}
		archive = append(archive, part.Data...)
	}
}

// unzip returns the files of an archive.
func unzip(t testing.TB, archive []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = string(raw)
		if strings.HasSuffix(f.Name, ".json") && !json.Valid(raw) {
			t.Errorf("%s is not JSON: %.300s", f.Name, raw)
		}
	}
	return files
}

// zipped returns an archive with the given files.
func zipped(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for name, content := range files {
		w, err := z.Create(name)
		if err == nil {
			_, err = io.WriteString(w, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// exported has an account exported and returns the files.
func exported(t testing.TB, s *testserver.Server, user string) map[string]string {
	t.Helper()
	return exportedWith(t, s, adminapi.ExportArgs{User: user})
}

func exportedWith(t testing.TB, s *testserver.Server, args adminapi.ExportArgs) map[string]string {
	t.Helper()
	builtWith(t, s, args)
	archive, err := download(t, s, args.User)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := command[struct{}](t, s, "user export drop", adminapi.ExportArgs{User: args.User}); err != nil {
		t.Fatal(err)
	}
	return unzip(t, archive)
}

func TestExportHasEverythingAboutItsUserAndNothingOfOthers(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "topic": "harbour"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	said := tell(alice, room, "words of alice")
	tell(bob, room, "words of bob")
	alice.Do("PUT", "/v3/profile/"+alice.User+"/displayname", obj{"displayname": "Alice A."})
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/org.example.setting", obj{"colour": "teal"})
	alice.Do("PUT", "/v3/user/"+alice.User+"/rooms/"+url.PathEscape(room)+"/tags/m.favourite", obj{"order": 0.25})
	alice.Do("PUT", "/v3/pushrules/global/content/mine", obj{"pattern": "lighthouse", "actions": []string{"notify"}})
	alice.Do("POST", "/v3/pushers/set", obj{"kind": "http", "app_id": "app.of.alice", "pushkey": "k", "app_display_name": "a", "device_display_name": "d", "lang": "en", "data": obj{"url": "https://push.example.org/_matrix/push/v1/notify"}})
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/receipt/m.read/"+url.PathEscape(said), obj{})
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/report/"+url.PathEscape(said), obj{"reason": "a reason of alice"})
	bob.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/report/"+url.PathEscape(said), obj{"reason": "a reason of bob"})
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/delayed?org.matrix.msc4140.delay=60000", obj{"msgtype": "m.text", "body": "not sent yet"})
	carol := s.Register("carol")
	kicked := bob.Do("POST", "/v3/createRoom", obj{"invite": []string{alice.User}, "name": "A room of bob"})["room_id"].(string)
	bob.Do("POST", "/v3/rooms/"+url.PathEscape(kicked)+"/ban", obj{"user_id": alice.User, "reason": "banned by bob"})
	bob.Do("POST", "/v3/rooms/"+url.PathEscape(kicked)+"/ban", obj{"user_id": carol.User, "reason": "another ban"})
	alice.Do("POST", "/v3/user/"+alice.User+"/filter", obj{"room": obj{"timeline": obj{"limit": 17}}})
	alice.Do("PUT", "/v3/directory/room/"+url.PathEscape("#harbour:test"), obj{"room_id": room})
	picture := uploadText(alice, "bytes of a file")
	uploadText(bob, "bytes of another file")

	status := built(t, s, "alice")
	archive, err := download(t, s, "alice")
	if err != nil {
		t.Fatal(err)
	}
	files := unzip(t, archive)
	for name, text := range map[string]string{
		"account.json": alice.User, "profile.json": "Alice A.", "devices.json": alice.DeviceID, "account_data.json": "teal", "push_rules.json": "lighthouse",
		"pushers.json": "app.of.alice", "rooms.json": room, "receipts.json": said, "reports.json": "a reason of alice", "audit.json": "export of an account begun",
		"media.json": picture, "media/" + picture: "bytes of a file", "README.txt": "messages/ROOM.json", "delayed_events.json": room, "browsers.json": "[]",
		"sign_ins.json": alice.DeviceID, "other.json": "#harbour:test", "originals.json": "[]",
	} {
		if !strings.Contains(files[name], text) {
			t.Errorf("%s has no %q: %s", name, text, files[name])
		}
	}
	if !strings.Contains(files["rooms.json"], "banned by bob") || !strings.Contains(files["other.json"], `"limit": 17`) {
		t.Errorf("rooms: %s\nother: %s", files["rooms.json"], files["other.json"])
	}
	messages := files["messages/"+strings.NewReplacer("!", "_", ":", "_").Replace(room)+".json"]
	if !strings.Contains(messages, "words of alice") || !strings.Contains(messages, "harbour") || !strings.Contains(messages, said) {
		t.Errorf("messages: %s", messages)
	}
	for name, content := range files {
		for _, foreign := range []string{"words of bob", "a reason of bob", "bytes of another file", "not sent yet", "another ban"} {
			if strings.Contains(content, foreign) {
				t.Errorf("%s contains %q", name, foreign)
			}
		}
	}
	checkVerification(t, archive, status.Key, alice.User)
}

// checkVerification fails the test unless an export verifies, and changed ones do not.
func checkVerification(t *testing.T, data []byte, key, user string) {
	t.Helper()
	m, err := archive.Verify(bytes.NewReader(data), int64(len(data)), key)
	if err != nil || m.User != user || len(m.Files) < 15 {
		t.Fatalf("%+v, %v", m, err)
	}
	for what, change := range map[string]func(files map[string]string){
		"changed":    func(f map[string]string) { f["profile.json"] = "{}\n" },
		"was added":  func(f map[string]string) { f["more.json"] = "{}" },
		"is missing": func(f map[string]string) { delete(f, "media.json") },
		"of another one": func(f map[string]string) {
			f["manifest.json"] = strings.Replace(f["manifest.json"], "alice", "carol", 1)
		},
		"has no signature":  func(f map[string]string) { delete(f, "signature.txt") },
		"was not made with": func(f map[string]string) { f["signature.txt"] = "x\n\n— test AAAAAAAA\n" },
	} {
		files := unzip(t, data)
		change(files)
		changed := zipped(t, files)
		if _, err := archive.Verify(bytes.NewReader(changed), int64(len(changed)), key); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func uploadText(c *testserver.Client, content string) (mediaID string) {
	uri, _ := c.Do("POST", "/_matrix/media/v3/upload", []byte(content))["content_uri"].(string)
	return uri[strings.LastIndex(uri, "/")+1:]
}

// TestExportEndsWithWhatIsInIt makes an export for each way in which something that it contains can go away.
func TestExportEndsWithWhatIsInIt(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	ends := func(how string, f func()) {
		t.Helper()
		built(t, s, "alice")
		if _, err := download(t, s, "alice"); err != nil {
			t.Fatalf("%s: before: %v", how, err)
		}
		f()
		if _, err := download(t, s, "alice"); err == nil || !strings.Contains(err.Error(), "no export to download") {
			t.Errorf("%s: the export can still be downloaded: %v", how, err)
		}
		if left, err := filepath.Glob(filepath.Join(s.Dir, "exports", "*")); err != nil || len(left) > 0 {
			t.Errorf("%s: %v are left on disk, %v", how, left, err)
		}
	}
	first := tell(alice, room, "one")
	ends("a message is redacted", func() { alice.Do("PUT", base+"/redact/"+url.PathEscape(first)+"/r", obj{}) })
	if files := exported(t, s, "alice"); anyContains(files, `"one"`) {
		t.Error("the export contains a redacted message")
	}
	tell(alice, room, "two")
	ends("the time is over", func() { s.Advance(export.Lifetime) })
	media := uploadText(alice, "a file")
	ends("a file is deleted", func() {
		if _, err := s.Control(t.Context(), "media delete", json.RawMessage(`{"uri":"mxc://test/`+media+`"}`)); err != nil {
			t.Fatal(err)
		}
	})
	tell(alice, room, "three")
	retain := func(ms int) { alice.Do("PUT", base+"/state/m.room.retention", obj{"max_lifetime": ms}) }
	ends("the room gets a shorter policy", func() { retain(3_600_000); s.Advance(time.Hour) })
	tell(alice, room, "four")
	s.Advance(44 * time.Minute)
	tell(alice, room, "five")
	ends("the first message expires", func() { s.Advance(16 * time.Minute) })
	files := exported(t, s, "alice")
	if anyContains(files, `"four"`) || !anyContains(files, `"five"`) {
		t.Error("the export contains a message that has expired, or not the one that lives")
	}
	s.Advance(31 * time.Minute) // "five" lives for less than a quarter of an hour
	if files := exported(t, s, "alice"); anyContains(files, `"five"`) || !strings.Contains(files["manifest.json"], `left_out": 1`) {
		t.Errorf("a message that expires soon: %s", files["manifest.json"])
	}
	built(t, s, "alice")
	s.Reopen()
	if _, err := download(t, s, "alice"); err == nil {
		t.Error("the export outlives a restart")
	}
	built(t, s, "alice")
	if _, err := s.Control(t.Context(), "user deactivate", json.RawMessage(`{"user":"alice"}`)); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir, "exports", "*")); err != nil || len(left) > 0 {
		t.Errorf("%v are left of a deactivated account, %v", left, err)
	}
}

// TestExportHasWhatTheUserTookBackWhileItIsKept compares exports with the time for which originals are kept.
func TestExportHasWhatTheUserTookBackWhileItIsKept(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.Retention.Redacted = config.Duration(6 * time.Hour) })
	alice, bob := s.Register("alice"), s.Register("bob")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	bob.Do("POST", base+"/join", obj{})
	redact := func(eventID string) {
		alice.Do("PUT", base+"/redact/"+url.PathEscape(eventID)+"/r"+eventID[1:], obj{})
	}
	redact(tell(alice, room, "taken back by alice"))
	redact(tell(bob, room, "taken back by bob"))
	files := exported(t, s, "alice")
	if !strings.Contains(files["originals.json"], "taken back by alice") || anyContains(files, "taken back by bob") {
		t.Errorf("the originals are %s", files["originals.json"])
	}
	s.Advance(5*time.Hour + time.Minute)
	if anyContains(exported(t, s, "alice"), "taken back by alice") {
		t.Error("an export has an original that is kept for less than an hour")
	}
	redact(tell(alice, room, "taken back later"))
	built(t, s, "alice")
	s.Advance(6*time.Hour - time.Minute)
	if archive, err := download(t, s, "alice"); err != nil || !strings.Contains(unzip(t, archive)["originals.json"], "taken back later") {
		t.Errorf("before the end of the time: %v", err)
	}
	s.Advance(time.Minute)
	if _, err := download(t, s, "alice"); err == nil {
		t.Error("the export outlives an original that it has")
	}
}

// TestExportDoesNotRevealHolds makes an export of a user under a legal hold, about which only an administrator knows.
func TestExportDoesNotRevealHolds(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	e := tell(alice, room, "taken back by alice")
	hold := first.Do("POST", holdsPath, obj{"user": alice.User, "reason": "case 9", "review": inOneYear(s)})["id"]
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/redact/"+url.PathEscape(e)+"/1", obj{})
	control(t, s, "hold list", obj{})
	lift(first, second, hold)
	again := first.Do("POST", holdsPath, obj{"user": alice.User, "reason": "case 9", "review": inOneYear(s)})["id"]
	files := exported(t, s, "alice")
	for name, content := range files {
		for _, secret := range []string{"case 9", "hold", "taken back"} {
			if name != "README.txt" && strings.Contains(content, secret) {
				t.Errorf("%s reveals a hold by %q: %s", name, secret, content)
			}
		}
	}
	if again == nil || !strings.Contains(files["audit.json"], "export of an account begun") {
		t.Errorf("the audit records are %s", files["audit.json"])
	}
}

// withConversations are the arguments for an export with what alice may read.
var withConversations = adminapi.ExportArgs{User: "alice", Conversations: true}

// TestExportWithConversationsHasWhatTheUserMayRead compares an export with the history visibility of rooms, what has
// expired or was redacted, and ignored users.
func TestExportWithConversationsHasWhatTheUserMayRead(t *testing.T) {
	s := testserver.New(t, nil)
	first, _ := admins(t, s)
	alice, bob, carol := s.Register("alice"), s.Register("bob"), s.Register("carol")
	create := func(visibility, more string) string {
		return bob.Do("POST", "/v3/createRoom", obj{"preset": "public_chat", "name": "room " + more, "initial_state": []obj{
			{"type": "m.room.history_visibility", "state_key": "", "content": obj{"history_visibility": visibility}},
		}})["room_id"].(string)
	}
	enter := func(c *testserver.Client, how, room string) {
		c.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/"+how, obj{})
	}
	joined, shared, left, forgotten, fading := create("joined", "joined"), create("shared", "shared"), create("shared", "left"), create("shared", "forgotten"), create("shared", "fading")
	never, world := create("shared", "never"), create("world_readable", "world")
	tell(bob, joined, "no-before-the-join")
	tell(bob, shared, "yes-shared-history")
	tell(bob, never, "no-never-joined")
	tell(bob, world, "no-not-a-member")
	for _, room := range []string{joined, shared, left, forgotten, fading} {
		enter(alice, "join", room)
	}
	enter(carol, "join", shared)
	alice.Do("PUT", "/v3/user/"+alice.User+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{carol.User: obj{}}})
	tell(bob, joined, "yes-after-the-join")
	tell(alice, shared, "yes-of-alice")
	tell(carol, shared, "no-ignored")
	back := tell(bob, shared, "no-redacted")
	bob.Do("PUT", "/v3/rooms/"+url.PathEscape(shared)+"/redact/"+url.PathEscape(back)+"/r", obj{})
	tell(bob, left, "yes-before-alice-left")
	enter(alice, "leave", left)
	tell(bob, left, "no-after-alice-left")
	tell(bob, forgotten, "no-forgotten")
	enter(alice, "leave", forgotten)
	enter(alice, "forget", forgotten)
	first.Do("POST", holdsPath, obj{"room": fading, "reason": "case 9", "review": inOneYear(s)})
	tell(bob, fading, "no-expired-but-held")
	bob.Do("PUT", "/v3/rooms/"+url.PathEscape(fading)+"/state/m.room.retention", obj{"max_lifetime": 7_200_000})
	s.Advance(2*time.Hour + time.Minute)
	control(t, s, "purge now", obj{"all": true})
	tell(bob, fading, "yes-still-alive")

	status := builtWith(t, s, withConversations)
	data, err := download(t, s, "alice")
	if err != nil {
		t.Fatal(err)
	}
	files := unzip(t, data)
	for _, want := range []string{"yes-shared-history", "yes-after-the-join", "yes-of-alice", "yes-before-alice-left", "yes-still-alive"} {
		found := 0
		for name, content := range files {
			if strings.HasPrefix(name, "conversations/") {
				found += strings.Count(content, `"`+want+`"`)
			}
		}
		if found != 1 {
			t.Errorf("%s is %d times in the conversations", want, found)
		}
	}
	for name, content := range files {
		if i := strings.Index(content, `"no-`); i >= 0 {
			t.Errorf("%s has %.60s", name, content[i:])
		}
	}
	m, err := archive.Verify(bytes.NewReader(data), int64(len(data)), status.Key)
	if err != nil || !m.Conversations || !strings.Contains(files["README.txt"], "conversations/ROOM.json") {
		t.Errorf("verified: %+v, %v", m, err)
	}
	checkChangedConversation(t, data, status.Key)
	if files := exported(t, s, "alice"); anyContains(files, "yes-shared-history") || strings.Contains(files["README.txt"], "conversations/ROOM") || strings.Contains(files["manifest.json"], "conversations") {
		t.Error("an export without conversations has what others have written, or says so")
	}
	s.Advance(time.Hour + 31*time.Minute) // "yes-still-alive" lives for less than a quarter of two hours
	if files := exportedWith(t, s, withConversations); anyContains(files, "yes-still-alive") || !strings.Contains(files["manifest.json"], `left_out": 1`) {
		t.Errorf("messages that expire soon: %s", files["manifest.json"])
	}
}

// checkChangedConversation fails the test if an archive verifies in which a conversation was changed.
func checkChangedConversation(t *testing.T, data []byte, key string) {
	t.Helper()
	files := unzip(t, data)
	for name := range files {
		if strings.HasPrefix(name, "conversations/") {
			files[name] = strings.Replace(files[name], "yes-", "yea-", 1)
		}
	}
	changed := zipped(t, files)
	if _, err := archive.Verify(bytes.NewReader(changed), int64(len(changed)), key); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Errorf("an archive with changed conversations verifies: %v", err)
	}
}

// TestExportWithConversationsEndsWithTheMessagesOfOthers makes exports with a message of another user that goes away.
func TestExportWithConversationsEndsWithTheMessagesOfOthers(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := bob.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	alice.Do("POST", base+"/join", obj{})
	ends := func(how string, f func()) {
		t.Helper()
		builtWith(t, s, withConversations)
		f()
		if _, err := download(t, s, "alice"); err == nil {
			t.Errorf("%s: the export can still be downloaded", how)
		}
	}
	e := tell(bob, room, "of bob")
	built(t, s, "alice")
	ends("a message is redacted", func() { bob.Do("PUT", base+"/redact/"+url.PathEscape(e)+"/r", obj{}) })
	tell(bob, room, "of bob, later")
	ends("a message expires", func() {
		bob.Do("PUT", base+"/state/m.room.retention", obj{"max_lifetime": 3_600_000})
		s.Advance(time.Hour)
	})
	built(t, s, "alice")
	ends("its user is erased", func() {
		tell(bob, room, "last words of bob")
		builtWith(t, s, withConversations)
		control(t, s, "user deactivate", obj{"user": alice.User, "erase": true})
	})
}

// TestExportsAreBuiltAgainAfterARestart stops the server while there is an export.
func TestExportsAreBuiltAgainAfterARestart(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := bob.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	alice.Do("POST", "/v3/join/"+url.PathEscape(room), obj{})
	back := tell(bob, room, "taken back")
	tell(bob, room, "stays")
	status := func() export.Status {
		t.Helper()
		st, err := command[export.Status](t, s, "user export status", withConversations)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	restart := func() {
		t.Helper()
		s.Reopen()
		if st := status(); st.State != "" {
			t.Errorf("before it is built again, the export is %+v", st)
		}
		if err := s.ResumeExports(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ready := func() map[string]string {
		t.Helper()
		eventually(t, time.Minute, "the export is built again", func() bool { return status().State == export.Ready })
		archive, err := download(t, s, "alice")
		if err != nil {
			t.Fatal(err)
		}
		return unzip(t, archive)
	}
	builtWith(t, s, withConversations)
	restart()
	if files := ready(); !anyContains(files, `"taken back"`) || !anyContains(files, `"stays"`) {
		t.Error("the export that was built again has no messages of others")
	}
	s.Reopen()
	bob.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/redact/"+url.PathEscape(back)+"/r", obj{})
	restart()
	if files := ready(); anyContains(files, `"taken back"`) || !anyContains(files, `"stays"`) {
		t.Error("the export that was built again is not as of the last start")
	}
	restart() // the third time
	ready()
	restart()
	if st := status(); st.State != "" {
		t.Errorf("after too many starts, the export is %+v", st)
	}
	for how, end := range map[string]func(){
		"it was deleted": func() { control(t, s, "user export drop", obj{"user": "alice"}) },
		"it is too old":  func() { s.Advance(export.Lifetime) },
	} {
		builtWith(t, s, withConversations)
		end()
		restart()
		if st := status(); st.State != "" {
			t.Errorf("%s, and after a start the export is %+v", how, st)
		}
	}
}

func anyContains(files map[string]string, text string) bool {
	for _, content := range files {
		if strings.Contains(content, text) {
			return true
		}
	}
	return false
}

// TestFilesOfExportsCannotBeReadAfterACrash looks at what a process that was killed leaves behind.
func TestFilesOfExportsCannotBeReadAfterACrash(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	uploadText(alice, strings.Repeat("findable ", 1000))
	built(t, s, "alice")
	left, err := filepath.Glob(filepath.Join(s.Dir, "exports", "*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("%v, %v", left, err)
	}
	raw, err := os.ReadFile(left[0])
	if err != nil || bytes.Contains(raw, []byte("findable")) || bytes.HasPrefix(raw, []byte("PK")) || len(raw) < 9000 {
		t.Errorf("the file of an export is not encrypted: %d bytes, %v", len(raw), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(left[0]), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left[0], raw, 0o600); err != nil { // as after kill -9
		t.Fatal(err)
	}
	s.Start()
	if left, err := filepath.Glob(filepath.Join(s.Dir, "exports", "*")); err != nil || len(left) > 0 {
		t.Errorf("after the start %v are left, %v", left, err)
	}
	if names := slices.Sorted(func(yield func(string) bool) {
		for name := range exported(t, s, "alice") {
			if !yield(name) {
				return
			}
		}
	}); !slices.Contains(names, "README.txt") {
		t.Errorf("the next export has %v", names)
	}
}
