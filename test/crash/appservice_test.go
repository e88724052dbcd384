package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"ebb/test/process"
)

// bridge is an application service that records the messages of each transaction.
type bridge struct {
	// mu guards the fields below.
	mu      sync.Mutex
	ids     []string            // transaction IDs in the order of their first arrival
	bodies  map[string][]string // bodies of messages by transaction ID
	differs []string            // IDs that were repeated with other messages
	again   int                 // number of repeated transactions
}

func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var txn struct {
		Events []process.Object `json:"events"`
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(raw, &txn) != nil {
		return // the server was killed while it sent
	}
	texts := []string{}
	for _, e := range txn.Events {
		if text := process.Text(e, "content", "body"); text != "" {
			texts = append(texts, text)
		}
	}
	b.note(path.Base(r.URL.Path), texts)
	time.Sleep(10 * time.Millisecond) // makes kills between the arrival and the response likely
	_, _ = io.WriteString(w, "{}")
}

func (b *bridge) note(txn string, texts []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, known := b.bodies[txn]
	if known && !slices.Equal(before, texts) {
		b.differs = append(b.differs, txn)
	}
	if known {
		b.again++
		return
	}
	b.ids, b.bodies[txn] = append(b.ids, txn), texts
}

// texts returns the messages of all transactions, counting each transaction once.
func (b *bridge) texts() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, txn := range b.ids {
		out = append(out, b.bodies[txn]...)
	}
	return out
}

func TestABridgeSeesEachEventOnceInSpiteOfKills(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{bodies: map[string][]string{}}
	listener := httptest.NewServer(b)
	t.Cleanup(listener.Close)
	file := filepath.Join(t.TempDir(), "bridge.yaml")
	registration := fmt.Sprintf("id: bridge\nurl: %s\nas_token: as\nhs_token: hs\nsender_localpart: bridgebot\nnamespaces: {}\n", listener.URL)
	if err := os.WriteFile(file, []byte(registration), 0o600); err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: config + "\nappservices: [" + file + "]"})
	alice := s.Register(t, "alice")
	room := process.Text(alice.Must(t, http.MethodPost, "/_matrix/client/v3/createRoom", process.Object{"preset": "public_chat"}), "room_id")
	bot := s.NewClient()
	bot.Token = "as"
	bot.Must(t, http.MethodPost, process.Path("join", room), process.Object{})

	const messages = 400
	sent := make(chan error, 1)
	go func() { sent <- sendAll(alice, room, messages) }()
	for i := range 6 {
		time.Sleep(time.Duration(60+37*i) * time.Millisecond)
		s.Kill()
		s.Up(t)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(b.texts()) < messages && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	var want []string
	for i := range messages {
		want = append(want, fmt.Sprint("message ", i))
	}
	if got := b.texts(); !slices.Equal(got, want) {
		t.Errorf("the bridge got %d messages: %s", len(got), firstDifference(got, want))
	}
	if len(b.differs) > 0 {
		t.Errorf("transactions came again with other events: %q", b.differs)
	}
	t.Logf("%d transactions, %d of them repeated", len(b.ids), b.again)
}

// sendAll sends messages one after the other, repeating each until it is acknowledged.
func sendAll(c *process.Client, room string, messages int) error {
	deadline := time.Now().Add(2 * time.Minute)
	for i := 0; i < messages; {
		path := process.Path("rooms", room, "send", "m.room.message", fmt.Sprint("m", i))
		status, answer, err := c.Do(context.Background(), http.MethodPut, path, process.Object{"msgtype": "m.text", "body": fmt.Sprint("message ", i)})
		switch {
		case err == nil && status == http.StatusOK:
			i++
		case err == nil && status < 500 || time.Now().After(deadline):
			return fmt.Errorf("message %d: %d %v %w", i, status, answer, err)
		default:
			time.Sleep(5 * time.Millisecond) // the server is starting
		}
	}
	return nil
}
