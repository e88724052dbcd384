package backup

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sink is a webhook that keeps the checkpoints of the audit log in a file.
type sink struct {
	*httptest.Server
	t     *testing.T
	file  string
	lines chan string // what was received, after it was written
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{t: t, file: filepath.Join(t.TempDir(), "checkpoints"), lines: make(chan string, 1000)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line, err := io.ReadAll(r.Body)
		if err == nil {
			var f *os.File
			if f, err = os.OpenFile(s.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				_, _ = f.Write(append(line, '\n'))
				err = f.Close()
			}
		}
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		s.lines <- string(line)
	}))
	t.Cleanup(s.Close)
	return s
}

// await waits for a checkpoint of the record seq or a later one that contains text.
func (s *sink) await(seq int, text string) {
	s.t.Helper()
	for {
		select {
		case line := <-s.lines:
			var c struct {
				Note string `json:"ebb_audit_checkpoint"`
			}
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				s.t.Fatal(err)
			}
			if n, _ := strconv.Atoi(strings.Split(c.Note, "\n")[2]); n >= seq && strings.Contains(c.Note, text) {
				return
			}
		case <-time.After(time.Minute):
			s.t.Fatalf("no checkpoint of record %d with %q was received", seq, text)
		}
	}
}

// records returns how many records the audit log has, according to ebb audit verify.
func (d *drill) records() (n int) {
	d.t.Helper()
	if _, err := fmt.Sscanf(d.must("audit", "verify"), "%d rows", &n); err != nil {
		d.t.Fatal(err)
	}
	return n
}

// change replaces a part of a file.
func change(t *testing.T, file, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err == nil && !strings.Contains(string(raw), from) {
		t.Fatalf("%s does not contain %q", file, from)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(raw), from, to, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckpointsOfLostRecordsAreExplainedAfterARestore(t *testing.T) {
	d, s := start(t, ""), newSink(t)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	change(t, d.Config, "registration:", "audit: {checkpoints: {interval: 1s, webhook: '"+s.URL+"'}}\nregistration:")
	d.Up(t)
	d.Register(t, "alice")
	s.await(1, "")
	key := strings.TrimSpace(d.must("audit", "key"))
	backup := d.backup().Path
	for range 5 {
		d.must("user", "lock", "alice")
		d.must("user", "unlock", "alice")
	}
	s.await(d.records(), "")
	lost := d.records()
	verify := []string{"audit", "verify", "--checkpoints", s.file, "--key", key}
	d.must(verify...)

	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.lose()
	d.must("restore", "--identity", d.key, backup)
	restored := d.records()
	unconfirmed := fmt.Sprintf("Row %d says that the database was restored from a backup, which would explain it, but no checkpoint confirms that", restored)
	d.refused(3, unconfirmed, verify...)

	d.Up(t)
	s.await(restored, "\nrestored ")
	d.must("user", "lock", "alice")
	for d.records() < lost { // the numbers are used again
		d.must("user", "unlock", "alice")
		d.must("user", "lock", "alice")
	}
	s.await(lost, "\nrestored ")
	out := d.must(verify...)
	if want := fmt.Sprintf("In row %d: the database was restored from a backup on ", restored); !strings.Contains(out, want) || !strings.Contains(out, fmt.Sprintf("up to row %d", lost)) {
		t.Errorf("verify says %q, without %q", out, want)
	}

	// What is cut off without ebb restore is found.
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.lose()
	d.must("restore", "--identity", d.key, backup)
	d.refused(3, "another hash", verify...)
}
