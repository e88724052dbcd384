package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"ebb/export/archive"
	"ebb/holds"
	"ebb/internal/testserver"
	"ebb/storage"
)

// auditKey returns the key that verifies what the audit log has signed.
func auditKey(t *testing.T, s *testserver.Server) string {
	t.Helper()
	key, err := storage.PeekAudit(t.Context(), s.Config().DSN(), func(storage.AuditRow) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// exportedHold returns the files of an export of a hold, which must be valid.
func exportedHold(t *testing.T, s *testserver.Server, by *testserver.Client, hold any) map[string]string {
	t.Helper()
	status, header, data := by.Raw("GET", holdsPath+"/"+fmt.Sprintf("%.0f", hold)+"/export", nil)
	if status != 200 || !strings.Contains(header.Get("Content-Disposition"), "hold") {
		t.Fatalf("the export is %d %v %.200s", status, header, data)
	}
	m, err := archive.Verify(bytes.NewReader(data), int64(len(data)), auditKey(t, s))
	if err != nil || fmt.Sprint(m.Hold) != fmt.Sprintf("%.0f", hold) {
		t.Fatalf("verified: %+v, %v", m, err)
	}
	return unzip(t, data)
}

// only returns the content of the only file whose name ends in suffix.
func only(t *testing.T, files map[string]string, suffix string) (content string) {
	t.Helper()
	n := 0
	for name, c := range files {
		if strings.HasSuffix(name, suffix) {
			content, n = c, n+1
		}
	}
	if n != 1 {
		t.Fatalf("%d files end in %s", n, suffix)
	}
	return content
}

func TestAHoldIsExportedWithItsOriginals(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := alice.Do("POST", "/v3/createRoom", obj{"name": "The board", "invite": []string{bob.User}})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	bob.Do("POST", base+"/join", obj{})
	hold := first.Do("POST", holdsPath, obj{"room": room, "reason": "case 7", "review": inOneYear(s)})["id"]
	uri := upload(alice, pngImage(t, 30))
	say := func(c *testserver.Client, txn, body string) string {
		return c.Do("PUT", base+"/send/m.room.message/"+txn, obj{"msgtype": "m.text", "body": body})["event_id"].(string)
	}
	redacted := say(bob, "1", "redacted-marker")
	say(alice, "2", "expired-marker")
	image := sendImage(alice, base, "3", uri)
	bob.Do("POST", base+"/report/"+url.PathEscape(redacted), obj{"reason": "report-marker"})
	for i, e := range []string{redacted, image} {
		alice.Do("PUT", base+"/redact/"+url.PathEscape(e)+"/r"+fmt.Sprint(i), obj{})
	}
	alice.Do("PUT", base+"/state/m.room.retention", obj{"max_lifetime": 60_000})
	s.Advance(2 * time.Minute)
	control(t, s, "purge now", obj{"all": true})
	next := upgraded(alice, room)
	alice.Do("PUT", "/v3/rooms/"+url.PathEscape(next)+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "successor-marker"})

	files := exportedHold(t, s, first, hold)
	var events string
	for name, content := range files {
		if strings.HasSuffix(name, "/events.json") {
			events += content
		}
		if strings.HasSuffix(name, ".json") && !json.Valid([]byte(content)) {
			t.Errorf("%s is not JSON: %.200s", name, content)
		}
	}
	for _, want := range []string{"redacted-marker", "expired-marker", "successor-marker", `"original":`, `"redacted"`, "kept by a hold", uri} {
		if !strings.Contains(events, want) {
			t.Errorf("the events do not have %q", want)
		}
	}
	if png := only(t, files, uri[strings.LastIndex(uri, "/"):]); png != string(pngImage(t, 30)) {
		t.Error("the file is not as it was uploaded")
	}
	if got := files["held_reports.json"]; !strings.Contains(got, "report-marker") || !strings.Contains(got, bob.User) {
		t.Errorf("the reports are %s", got)
	}
	if got := files["hold.json"]; !strings.Contains(got, "case 7") || !strings.Contains(got, first.User) || !strings.Contains(got, next) {
		t.Errorf("the hold is %s", got)
	}
	state := ""
	for name, content := range files {
		if strings.HasSuffix(name, "/state.json") {
			state += content
		}
	}
	if !strings.Contains(state, "The board") || !strings.Contains(state, bob.User) {
		t.Errorf("the state of the rooms is %s", state)
	}
	if _, found := files["account.json"]; found {
		t.Error("the export of a room has an account")
	}
	if got := strings.Join(auditLog(t, s.Config().DSN()), "\n"); !strings.Contains(got, "legal hold exported") || !strings.Contains(got, first.User) {
		t.Errorf("the audit log does not say who has exported the hold")
	}

	path := holdsPath + "/" + fmt.Sprintf("%.0f", hold) + "/export"
	alice.Refused("GET", path, nil, 403, "M_FORBIDDEN")
	s.Anonymous().Refused("GET", path, nil, 401, "M_MISSING_TOKEN")
	first.Refused("GET", holdsPath+"/77/export", nil, 404, "M_NOT_FOUND")
	first.Refused("GET", path+"?recipient=me", nil, 400, "M_INVALID_PARAM")
	lift(first, second, hold)
	first.Refused("GET", path, nil, 400, "M_INVALID_PARAM")
}

func TestAHoldOnAUserIsExportedWithTheAccount(t *testing.T) {
	s := testserver.New(t, nil)
	first, _ := admins(t, s)
	alice, bob := s.Register("alice"), s.Register("bob")
	hold := first.Do("POST", holdsPath, obj{"user": alice.User, "reason": "case 8", "review": inOneYear(s)})["id"]
	unsent := upload(alice, pngImage(t, 20))
	for i := range 3 {
		room := alice.Do("POST", "/v3/createRoom", obj{"invite": []string{bob.User}})["room_id"].(string)
		base := "/v3/rooms/" + url.PathEscape(room)
		bob.Do("POST", base+"/join", obj{})
		e := alice.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": fmt.Sprint("alice-marker-", i)})["event_id"].(string)
		bob.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "bob-marker"})
		alice.Do("PUT", base+"/redact/"+url.PathEscape(e)+"/2", obj{})
	}
	alice.Do("PUT", "/v3/user/"+url.PathEscape(alice.User)+"/account_data/org.x", obj{"x": "data-marker"})
	control(t, s, "user deactivate", obj{"user": alice.User, "erase": true})
	control(t, s, "purge now", obj{"all": true})

	// On the command line, a token says who the administrator is. The archive is encrypted for a recipient.
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Control(t.Context(), "hold export", fmt.Appendf(nil, `{"id":%.0f}`, hold)); err == nil {
		t.Error("a hold is exported by nobody")
	}
	e, _ := control(t, s, "hold export", obj{"id": hold, "token": first.Token, "recipients": []string{key.Recipient().String()}}).(*holds.Export)
	var sealed bytes.Buffer
	if err := e.Write(t.Context(), &sealed); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed.Bytes(), []byte("hold.json")) {
		t.Error("the archive is not encrypted")
	}
	plain, err := age.Decrypt(&sealed, key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := archive.Verify(bytes.NewReader(data), int64(len(data)), auditKey(t, s)); err != nil || m.About() != fmt.Sprintf("legal hold %.0f", hold) {
		t.Errorf("verified: %+v, %v", m, err)
	}
	files := unzip(t, data)
	all := fmt.Sprint(files)
	for _, want := range []string{"alice-marker-0", "alice-marker-1", "alice-marker-2", "data-marker"} {
		if !strings.Contains(all, want) {
			t.Errorf("the export does not have %q", want)
		}
	}
	if strings.Contains(all, "bob-marker") {
		t.Error("the export of a user has messages of others")
	}
	only(t, files, unsent[strings.LastIndex(unsent, "/"):])
	if !strings.Contains(files["account.json"], alice.User) {
		t.Errorf("the account is %s", files["account.json"])
	}
}
