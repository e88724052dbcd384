package web_test

import (
	"archive/zip"
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestUsersDownloadWhatIsStoredAboutThem(t *testing.T) {
	l := newLab(t)
	l.Register("bob")
	b, page := l.own(accountPage + "/export")
	page.has("Collect my data")
	if r := b.get(accountPage + "/export/download"); r.status != 404 {
		t.Errorf("without an archive: %d", r.status)
	}
	if r := b.press(page, "start"); r.status >= 400 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(page.body, "You can download the archive"); time.Sleep(time.Millisecond) {
		if page = b.get(accountPage + "/export"); page.status != 200 || time.Now().After(deadline) {
			t.Fatalf("%d %s", page.status, page.body)
		}
	}
	r := b.get(accountPage + "/export/download")
	z, err := zip.NewReader(bytes.NewReader([]byte(r.body)), int64(len(r.body)))
	if err != nil || r.header.Get("Content-Type") != "application/zip" || !strings.Contains(r.header.Get("Content-Disposition"), "attachment") || r.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v: %v", r.status, r.header, err)
	}
	if _, err := z.Open("account.json"); err != nil {
		t.Error(err)
	}
	other := l.browser()
	if r := other.signInAs(accountPage+"/export", "bob"); strings.Contains(r.body, "You can download the archive") {
		t.Error("another user sees the archive")
	}
	if r := other.get(accountPage + "/export/download"); r.status != 404 {
		t.Errorf("another user: %d", r.status)
	}
	if strings.Contains(page.body, "It has the messages of others") {
		t.Error("the page says that the archive has the messages of others")
	}
	b.press(page, "drop").has("The archive is deleted")
	if r := b.get(accountPage + "/export/download"); r.status != 404 {
		t.Errorf("after it was deleted: %d", r.status)
	}
	page = b.press(b.get(accountPage+"/export"), "start", "conversations", "yes")
	for deadline := time.Now().Add(time.Minute); !strings.Contains(page.body, "It has the messages of others"); time.Sleep(time.Millisecond) {
		if page = b.get(accountPage + "/export"); page.status != 200 || time.Now().After(deadline) {
			t.Fatalf("with conversations: %d %s", page.status, page.body)
		}
	}
	l.Advance(11 * time.Minute)
	for _, path := range []string{"/export", "/export/download"} {
		if r := b.get(accountPage + path); !r.shows("password") {
			t.Errorf("%s needs no recent sign-in: %d %s", path, r.status, r.body)
		}
	}
}
