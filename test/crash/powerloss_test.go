package crash

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"ebb/test/process"
)

// TestNoAnswerLeavesBeforeItsFsync watches the system calls of the binary. The bytes of every change must be written to
// a file, the file must be synced, and only then may the response be sent. Killing the process cannot show this,
// because the kernel keeps what a killed process wrote, unlike in a power cut.
func TestNoAnswerLeavesBeforeItsFsync(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIP power loss: apt-get install strace")
	}
	if out, err := exec.Command(strace, "-f", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("SKIP power loss: this machine lets no process be traced: %s", out)
	}
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "strace.log")
	s := process.Start(t, binary, process.Options{Config: config, Wrapper: []string{strace, "-f", "-y", "-s", "8192", "-e", "signal=none",
		"-e", "trace=write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync", "-o", log}})
	changes := writeOneByOne(t, s)
	together := writeTogether(t, s)
	s.Kill()
	calls := readCalls(t, log)
	for _, c := range append(changes, together...) {
		if err := calls.checkOrder(c); err != nil {
			t.Error(err)
		}
	}
}

// change is a request whose marker must occur in the bytes that are written to disk. If answer (an event ID) is set, it
// identifies the response among others. Otherwise the request was sent alone, and the next response after its bytes
// belongs to it. The bytes of an uploaded file are encrypted: for those, folder is set instead of marker, and stands
// for what was last written there.
type change struct{ marker, folder, answer string }

func (c change) isWrittenBy(one *call) bool {
	if !strings.HasPrefix(one.file, "/") || !strings.Contains(one.name, "write") {
		return false
	}
	if c.folder != "" {
		return strings.Contains(one.file, c.folder)
	}
	return strings.Contains(one.text, c.marker)
}

// writeOneByOne makes one change of every kind, with no other requests in progress.
func writeOneByOne(t *testing.T, s *process.Server) []change {
	c := s.Register(t, "alone")
	room := process.Text(c.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{}), "room_id")
	var done []change
	for i, path := range []string{
		process.Path("rooms", room, "send", "m.room.message", "t1"),
		process.Path("rooms", room, "state", "m.room.topic", ""),
		process.Path("sendToDevice", "org.example.power", "t2"),
		process.Path("user", c.UserID, "account_data", "org.example.power"),
		process.Path("user", c.UserID, "rooms", room, "account_data", "org.example.power"),
		process.Path("devices", c.Device),
		process.Path("profile", c.UserID, "displayname"),
	} {
		marker := fmt.Sprintf("single-marker-%d-end", i)
		c.Must(t, http.MethodPut, path, process.Object{"msgtype": "m.text", "body": marker, "topic": marker, "displayname": marker, "display_name": marker,
			"messages": process.Object{c.UserID: process.Object{"*": process.Object{"marker": marker}}}})
		done = append(done, change{marker: marker})
	}
	c.Must(t, http.MethodPost, "/_matrix/media/v3/upload?filename=media-marker-end", "a file")
	return append(done, change{marker: "media-marker-end"}, change{folder: "/media/"})
}

// writeTogether sends messages over many connections, so that some commits contain several messages.
func writeTogether(t *testing.T, s *process.Server) []change {
	c := s.Register(t, "together")
	room := process.Text(c.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{}), "room_id")
	changes := make([]change, 160)
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			for i := worker; i < len(changes); i += 16 {
				marker := fmt.Sprintf("shared-marker-%d-end", i)
				status, answer, err := c.Do(t.Context(), http.MethodPut, process.Path("rooms", room, "send", "m.room.message", marker),
					process.Object{"msgtype": "m.text", "body": marker})
				if err != nil || status != http.StatusOK {
					t.Errorf("%d %v %v", status, answer, err)
				}
				changes[i] = change{marker: marker, answer: process.Text(answer, "event_id")}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return changes
}

// call is a system call: the numbers of the lines at which it began and returned, the file, and the text that strace
// printed for it.
type call struct {
	begin, end int
	name, file string
	text       string
}

// calls lists system calls in the order in which they began.
type calls []*call

var (
	callLine    = regexp.MustCompile(`^(\d+)\s+(\w+)\(\d+<([^>]*)>(.*)$`)
	resumedLine = regexp.MustCompile(`^(\d+)\s+<\.\.\. \w+ resumed>`)
)

func readCalls(t *testing.T, path string) calls {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	var all calls
	open := map[string]*call{} // unfinished calls by thread
	for n := 0; lines.Scan(); n++ {
		line := lines.Text()
		if m := callLine.FindStringSubmatch(line); m != nil {
			c := &call{begin: n, end: n, name: m[2], file: m[3], text: m[4]}
			all = append(all, c)
			if strings.HasSuffix(line, "<unfinished ...>") {
				c.end = 1 << 60 // the call has not returned yet
				open[m[1]] = c
			}
		} else if m := resumedLine.FindStringSubmatch(line); m != nil && open[m[1]] != nil {
			open[m[1]].end = n
			delete(open, m[1])
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// checkOrder checks that there is a sync of the written file between the write of a change and its response.
func (all calls) checkOrder(c change) error {
	var written *call
	for _, one := range all {
		switch {
		case c.isWrittenBy(one) && (written == nil || c.folder != ""):
			written = one
		case written != nil && one.isAnswer(c.answer):
			// The sync must begin after the bytes were written and return before the response is sent.
			if !all.syncedBetween(written, one) {
				return fmt.Errorf("%s: the answer left before %s was synced", c.marker+c.folder, written.file)
			}
			return nil
		case one.isAnswer(c.answer) && c.answer != "":
			return fmt.Errorf("%s: the answer left before anything was written", c.marker+c.folder)
		}
	}
	if written == nil {
		return fmt.Errorf("%s is in no write to a file", c.marker+c.folder)
	}
	return fmt.Errorf("%s: no answer left", c.marker+c.folder)
}

// isAnswer reports whether the call sends a response with status 200 that contains text.
func (c *call) isAnswer(text string) bool {
	return !strings.HasPrefix(c.file, "/") && strings.Contains(c.text, `"HTTP/1.1 200 OK`) && strings.Contains(c.text, text)
}

func (all calls) syncedBetween(written, answer *call) bool {
	for _, one := range all {
		if one.file == written.file && strings.HasSuffix(one.name, "sync") && one.begin > written.end && one.end < answer.begin {
			return true
		}
	}
	return false
}
