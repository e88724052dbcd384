package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/federation/fedclient"
	"ebb/internal/testserver"
)

// crowd is a server, hs1.test, with rooms in which n of everything happened, and another one that knows them.
type crowd struct {
	*testing.T
	net   *testserver.Network
	alice *testserver.Client // of hs1
	room  string
	back  string // a token of before most of it
	last  string // the newest event
	other *fedclient.Client
}

func newCrowd(t *testing.T, n int) *crowd {
	t.Helper()
	c := &crowd{T: t, net: testserver.Federation(t, 2, nil)}
	s := c.net.Servers[0]
	c.alice = s.Register("alice")
	bob := c.net.Servers[1].Register("bob")
	c.room = c.alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "name": "crowd"})["room_id"].(string)
	c.back = c.alice.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	path := "/v3/rooms/" + url.PathEscape(c.room)
	bob.Do("POST", "/v3/join/"+url.PathEscape(c.room)+"?via=hs1.test", map[string]any{})
	txn := 0
	send := func(from *testserver.Client, content map[string]any) string {
		txn++
		return from.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", path, txn), content)["event_id"].(string)
	}
	text := func(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }
	for i := range n {
		guest := s.Register(fmt.Sprintf("guest%d", i))
		guest.Do("POST", "/v3/join/"+url.PathEscape(c.room), map[string]any{})
		root := send(guest, text("a thread begins"))
		reply := text("it goes on")
		reply["m.relates_to"] = map[string]any{"rel_type": "m.thread", "event_id": root}
		send(guest, reply)
		edit := text("* a thread began")
		edit["m.new_content"] = text("a thread began")
		edit["m.relates_to"] = map[string]any{"rel_type": "m.replace", "event_id": root}
		send(guest, edit)
		referring := text("see there")
		referring["m.relates_to"] = map[string]any{"rel_type": "m.reference", "event_id": root}
		said := send(guest, referring)
		lost := send(guest, text("a slip"))
		guest.Do("PUT", fmt.Sprintf("%s/redact/%s/r%d", path, url.PathEscape(lost), i), map[string]any{})
		guest.Do("POST", path+"/receipt/m.read/"+url.PathEscape(said), map[string]any{})
		guest.Do("PUT", "/v3/profile/"+url.PathEscape(guest.User)+"/displayname", map[string]any{"displayname": fmt.Sprint("Guest ", i)})
		guest.Do("POST", "/v3/keys/upload", map[string]any{"device_keys": map[string]any{
			"user_id": guest.User, "device_id": guest.DeviceID, "algorithms": []string{}, "keys": map[string]string{}, "signatures": map[string]any{},
		}})
		banned := url.PathEscape(fmt.Sprintf("@banned%d:hs1.test", i))
		c.alice.Do("PUT", path+"/state/m.room.member/"+banned, map[string]any{"membership": "invite"})
		c.alice.Do("PUT", path+"/state/m.room.member/"+banned, map[string]any{"membership": "ban"})
		c.alice.Do("PUT", path+"/state/m.room.topic/", map[string]any{"topic": fmt.Sprint("topic ", i)})
	}
	c.last = send(c.alice, text("the end"))
	keys, err := fedclient.LoadSigningKeys(filepath.Join(c.net.Servers[1].Dir, "signing.key"), "hs2.test")
	if err != nil {
		t.Fatal(err)
	}
	options := c.net.ClientOptions("hs2.test")
	options.Signer = keys
	c.other = fedclient.New(options)
	t.Cleanup(c.other.Close)
	return c
}

// cold lists the statements of one read by a server that has just started.
func (c *crowd) cold(read func(*crowd) error) []string {
	c.Helper()
	c.net.Stop(0)
	c.net.Start(0)
	var err error
	list := c.net.Servers[0].Statements(func() { err = read(c) })
	if err != nil {
		c.Fatal(err)
	}
	return list
}

// coldReads are requests whose answers grow with what is in a room.
func coldReads() map[string]func(*crowd) error {
	get := func(format string, args ...func(*crowd) string) func(*crowd) error {
		return func(c *crowd) error {
			values := make([]any, len(args))
			for i, a := range args {
				values[i] = url.QueryEscape(a(c))
			}
			path := fmt.Sprintf(format, values...)
			status, _, answer := c.alice.Raw("GET", path, nil)
			if status != http.StatusOK {
				return fmt.Errorf("GET %s: %d %s", path, status, answer)
			}
			return nil
		}
	}
	room := func(c *crowd) string { return c.room }
	back := func(c *crowd) string { return c.back }
	last := func(c *crowd) string { return c.last }
	return map[string]func(*crowd) error{
		"members":         get("/v3/rooms/%s/members", room),
		"members, joined": get("/v3/rooms/%s/members?membership=join", room),
		"members, at":     get("/v3/rooms/%s/members?at=%s", room, back),
		"joined members":  get("/v3/rooms/%s/joined_members", room),
		"state":           get("/v3/rooms/%s/state", room),
		"context":         get("/v3/rooms/%s/context/%s?limit=100", room, last),
		"context, lazy":   get("/v3/rooms/%s/context/%s?limit=100&filter=%s", room, last, func(*crowd) string { return `{"lazy_load_members":true}` }),
		"joined rooms":    get("/v3/joined_rooms"),
		"federation: state": func(c *crowd) error {
			_, _, err := c.other.State(context.Background(), "hs1.test", id.RoomID(c.room), id.EventID(c.last), func(json.RawMessage) bool { return true })
			return err
		},
		"federation: state_ids": func(c *crowd) error {
			_, _, err := c.other.StateIDs(context.Background(), "hs1.test", id.RoomID(c.room), id.EventID(c.last))
			return err
		},
		"federation: event_auth": func(c *crowd) error {
			_, err := c.other.EventAuth(context.Background(), "hs1.test", id.RoomID(c.room), id.EventID(c.last))
			return err
		},
		"federation: get_missing_events": func(c *crowd) error {
			_, err := c.other.GetMissingEvents(context.Background(), "hs1.test", id.RoomID(c.room), nil, []id.EventID{id.EventID(c.last)}, 20, 0)
			return err
		},
		"federation: make_join": func(c *crowd) error {
			_, err := c.other.MakeJoin(context.Background(), "hs1.test", id.RoomID(c.room), "@carol:hs2.test", []id.RoomVersion{"10", "11", "12"})
			return err
		},
	}
}

// A read that asks the database once for each event or member takes minutes in a large room.
func TestColdReadsDoNotAskTheDatabaseOncePerEvent(t *testing.T) {
	const few, many = 4, 40
	small, large := newCrowd(t, few), newCrowd(t, many)
	reads := coldReads()
	for _, name := range slices.Sorted(maps.Keys(reads)) {
		before, after := small.cold(reads[name]), large.cold(reads[name])
		if len(after)-len(before) > (many-few)/3 {
			t.Errorf("%s: %d statements with %d, %d with %d of everything%s", name, len(before), few, len(after), many, more(before, after))
		} else {
			t.Logf("%s: %d, %d", name, len(before), len(after))
		}
	}
}

// more shows which statements are run more often.
func more(before, after []string) string {
	count := map[string]int{}
	for _, q := range after {
		count[q]++
	}
	for _, q := range before {
		count[q]--
	}
	var out strings.Builder
	for _, q := range slices.Sorted(maps.Keys(count)) {
		if count[q] > 2 {
			fmt.Fprintf(&out, "\n  %d more: %.150s", count[q], strings.Join(strings.Fields(q), " "))
		}
	}
	return out.String()
}
