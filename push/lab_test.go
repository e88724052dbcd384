package push_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

type object = map[string]any

// lab is a server with a gateway at which the test receives its push notifications.
type lab struct {
	*testserver.Server
	t    *testing.T
	stop func()
}

func newLab(t *testing.T, change func(*config.Config)) *lab {
	t.Helper()
	s := testserver.New(t, func(cfg *config.Config) {
		cfg.Push.AllowPrivateGateways = true
		if change != nil {
			change(cfg)
		}
	})
	return &lab{Server: s, t: t, stop: s.Notify()}
}

// restart stops the server and starts it again.
func (l *lab) restart() {
	l.stop()
	l.Reopen()
	l.stop = l.Notify()
}

// gateway is a push gateway that passes what it receives to the test.
type gateway struct {
	t        *testing.T
	url      string
	received chan notification
	respond  func(w http.ResponseWriter, n notification) // nil accepts everything
}

// notification is a notification received by a gateway, decoded strictly.
type notification struct {
	EventID           string  `json:"event_id"`
	RoomID            string  `json:"room_id"`
	Type              string  `json:"type"`
	Sender            string  `json:"sender"`
	SenderDisplayName string  `json:"sender_display_name"`
	RoomName          string  `json:"room_name"`
	RoomAlias         string  `json:"room_alias"`
	UserIsTarget      *bool   `json:"user_is_target"`
	Prio              string  `json:"prio"`
	Content           object  `json:"content"`
	Counts            *counts `json:"counts"`
	Devices           []struct {
		AppID     string `json:"app_id"`
		Pushkey   string `json:"pushkey"`
		PushkeyTS int64  `json:"pushkey_ts"`
		Data      object `json:"data"`
		Tweaks    object `json:"tweaks"`
	} `json:"devices"`
}

type counts struct {
	Unread *int64 `json:"unread"`
}

func newGateway(t *testing.T, respond func(w http.ResponseWriter, n notification)) *gateway {
	t.Helper()
	g := &gateway{t: t, received: make(chan notification, 1000), respond: respond}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	g.url = s.URL + "/_matrix/push/v1/notify"
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	var body struct {
		Notification notification `json:"notification"`
	}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&body); err != nil || r.Method != http.MethodPost || r.URL.Path != "/_matrix/push/v1/notify" || r.Header.Get("Content-Type") != "application/json" {
		g.t.Errorf("%s %s %s: %s %v", r.Method, r.URL, r.Header.Get("Content-Type"), raw, err)
	}
	g.received <- body.Notification
	if g.respond != nil {
		g.respond(w, body.Notification)
		return
	}
	_, _ = io.WriteString(w, `{"rejected":[]}`)
}

// next returns the next notification.
func (g *gateway) next() notification {
	g.t.Helper()
	select {
	case n := <-g.received:
		return n
	case <-time.After(20 * time.Second):
		g.t.Fatal("the gateway was sent nothing")
		return notification{}
	}
}

// event returns the next notification that is about an event.
func (g *gateway) event() notification {
	g.t.Helper()
	for {
		if n := g.next(); n.EventID != "" {
			return n
		}
	}
}

// retried returns the next notification about an event. It advances the server's clock until the notification comes, so
// that retries become due.
func (g *gateway) retried(s *testserver.Server) notification {
	g.t.Helper()
	for range 400 {
		select {
		case n := <-g.received:
			if n.EventID != "" {
				return n
			}
		case <-time.After(50 * time.Millisecond):
			s.Advance(time.Second)
		}
	}
	g.t.Fatal("the gateway was sent nothing again")
	return notification{}
}

// badge returns the next unread count that was sent without an event.
func (g *gateway) badge() int64 {
	g.t.Helper()
	for {
		if n := g.next(); n.EventID == "" {
			if n.Counts == nil || n.Counts.Unread == nil {
				g.t.Fatalf("%+v has no unread count", n)
			}
			return *n.Counts.Unread
		}
	}
}

// pusher returns the request body for a pusher at the gateway, with changes applied.
func (g *gateway) pusher(pushkey string, changes object) object {
	p := object{
		"kind": "http", "app_id": "org.example.app", "pushkey": pushkey, "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
		"data": object{"url": g.url, "custom": object{"a": 1}},
	}
	maps.Copy(p, changes)
	return p
}

func set(c *testserver.Client, p object) { c.Do("POST", "/v3/pushers/set", p) }

// pushkeys returns the pushkeys of a user's pushers, sorted.
func pushkeys(c *testserver.Client) []string {
	keys := []string{}
	for _, p := range c.Do("GET", "/v3/pushers", nil)["pushers"].([]any) {
		keys = append(keys, p.(object)["pushkey"].(string))
	}
	slices.Sort(keys)
	return keys
}

// room creates a room in which its creator and the other users are joined.
func room(first *testserver.Client, body object, others ...*testserver.Client) string {
	var invite []string
	for _, c := range others {
		invite = append(invite, c.User)
	}
	request := object{"invite": invite, "preset": "private_chat"}
	maps.Copy(request, body)
	roomID := first.Do("POST", "/v3/createRoom", request)["room_id"].(string)
	for _, c := range others {
		c.Do("POST", "/v3/rooms/"+roomID+"/join", object{})
	}
	return roomID
}

var txns int

// say sends a message and returns its event ID.
func say(c *testserver.Client, room, body string, more object) string {
	txns++
	content := object{"msgtype": "m.text", "body": body}
	maps.Copy(content, more)
	return c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/t%d", room, txns), content)["event_id"].(string)
}

// mention returns the content of a message that mentions a user.
func mention(c *testserver.Client) object {
	return object{"m.mentions": object{"user_ids": []string{c.User}}}
}
