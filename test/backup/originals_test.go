package backup

import (
	"os"
	"strings"
	"testing"

	"ebb/test/process"
)

// setRedacted sets retention.redacted of the stopped server.
func (d *drill) setRedacted(to string) {
	d.t.Helper()
	raw, err := os.ReadFile(d.Config)
	if err != nil {
		d.t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(raw), "retention: ")
	if err := os.WriteFile(d.Config, []byte(strings.TrimSpace(text)+"\nretention: {redacted: "+to+"}\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// A message that is redacted after a backup is redacted again when that is restored, and its original is kept no longer
// than before.
func TestRedactedMessagesOfABackupAreKeptForTheirTime(t *testing.T) {
	d := start(t, "")
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.setRedacted("1h")
	d.Up(t)
	alice := d.Register(t, "alice")
	chat := room(t, alice, nil)
	before, after := say(t, alice, chat, "marker-before"), say(t, alice, chat, "marker-after")
	redact := func(event string) {
		alice.Must(t, "PUT", process.Path("rooms", chat, "redact", event, event), process.Object{})
	}
	redact(before)
	backup := d.backup().Path
	redact(after)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.lose()
	d.must("restore", "--identity", d.key, backup)
	d.Up(t)
	for _, event := range []string{before, after} {
		path := process.Path("rooms", chat, "event", event)
		if answer := alice.Must(t, "GET", path, nil); process.Text(answer, "content", "body") != "" {
			t.Errorf("after the restore the event is %v", answer)
		}
		answer := alice.Must(t, "GET", path+"?fi.mau.msc2815.include_unredacted_content=true", nil)
		if !strings.HasPrefix(process.Text(answer, "content", "body"), "marker-") {
			t.Errorf("within its time a moderator reads %v", answer)
		}
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.lose()
	d.setRedacted("1ms")
	d.must("restore", "--identity", d.key, backup)
	if found := process.FilesWith(t, d.DataDir, "marker-"); len(found) > 0 {
		t.Errorf("after their time the messages are in %v", found)
	}
}
