package crash

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"ebb/test/process"
)

// pushConfig allows push gateways on loopback.
const pushConfig = config + "\npush: {allow_private_gateways: true}"

// receiver is a push gateway that records the events that it receives. While it is down, it refuses all requests.
type receiver struct {
	url  string
	news chan struct{} // contains an element if something has been received since it was last emptied

	mu   sync.Mutex // guards the fields below
	down bool
	seen map[string]int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	g := &receiver{seen: map[string]int{}, news: make(chan struct{}, 1)}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	g.url = s.URL + "/_matrix/push/v1/notify"
	return g
}

func (g *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Notification struct {
			EventID string `json:"event_id"`
		} `json:"notification"`
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(raw, &body) != nil {
		return // the server was killed in the middle of the request
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	g.seen[body.Notification.EventID]++
	_, _ = io.WriteString(w, `{"rejected":[]}`)
	select {
	case g.news <- struct{}{}:
	default:
	}
}

func (g *receiver) setDown(down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = down
}

// missing returns those events that the gateway has not received.
func (g *receiver) missing(events []string) (missing []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range events {
		if g.seen[id] == 0 {
			missing = append(missing, id)
		}
	}
	return missing
}

func TestEveryPushIsDeliveredInSpiteOfKills(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: pushConfig})
	g := newReceiver(t)
	sender, reader := s.Register(t, "sender"), s.Register(t, "reader")
	room := process.Text(sender.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat"}), "room_id")
	reader.Must(t, http.MethodPost, process.Path("join", room), process.Object{})
	reader.Must(t, http.MethodPost, process.Path("pushers", "set"), process.Object{
		"kind": "http", "app_id": "org.example.app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
		"data": process.Object{"url": g.url},
	})
	var sent []string
	for round := range kills(t) {
		g.setDown(round%2 == 1) // in some rounds, pushes are in progress when the server is killed; in others all of them are waiting
		for i := range 80 {     // more than one queue can hold
			path := process.Path("rooms", room, "send", "m.room.message", fmt.Sprintf("%d-%d", round, i))
			sent = append(sent, process.Text(sender.Must(t, http.MethodPut, path, process.Object{"msgtype": "m.text", "body": "hello"}), "event_id"))
		}
		s.Kill()
		g.setDown(false)
		s.Up(t)
		for missing := g.missing(sent); len(missing) > 0; missing = g.missing(sent) {
			select {
			case <-g.news:
			case <-time.After(time.Minute):
				t.Fatalf("round %d: %d of %d pushes are lost", round, len(missing), len(sent))
			}
		}
	}
	again := 0
	for _, n := range g.seen {
		again += n - 1
	}
	t.Logf("%d pushes were delivered, %d of them again", len(g.seen), again)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}
