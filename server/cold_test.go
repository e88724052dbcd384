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

	"ebb/fedclient"
	"ebb/internal/testserver"
)

// crowd is a server, hs1.test, that has a room with n entries of every kind and a space of some rooms, and another
// server that participates in them.
type crowd struct {
	*testing.T
	net   *testserver.Network
	alice *testserver.Client // registered on hs1.test
	room  string
	space string
	back  string // a token from before most events
	users []string
	roots []string // event IDs of thread roots
	last  string   // ID of the newest event
	other *fedclient.Client
}

func newCrowd(t *testing.T, n, rooms int) *crowd {
	t.Helper()
	c := &crowd{T: t, net: testserver.Federation(t, 2, nil)}
	s := c.net.Servers[0]
	c.alice = s.Register("alice")
	bob := c.net.Servers[1].Register("bob")
	c.room = c.alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "name": "crowd"})["room_id"].(string)
	c.back = c.alice.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	path := "/v3/rooms/" + url.PathEscape(c.room)
	bob.Do("POST", "/v3/join/"+url.PathEscape(c.room)+"?via=hs1.test", map[string]any{})
	c.space = c.alice.Do("POST", "/v3/createRoom", map[string]any{"creation_content": map[string]any{"type": "m.space"}, "preset": "public_chat"})["room_id"].(string)
	txn := 0
	send := func(from *testserver.Client, content map[string]any) string {
		txn++
		return from.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", path, txn), content)["event_id"].(string)
	}
	text := func(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }
	for i := range n {
		guest := s.Register(fmt.Sprintf("guest%d", i))
		c.users = append(c.users, guest.User)
		guest.Do("POST", "/v3/join/"+url.PathEscape(c.room), map[string]any{})
		root := send(guest, text("a thread begins"))
		c.roots = append(c.roots, root)
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
	for i := range rooms {
		child := c.alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "visibility": "public", "name": fmt.Sprint("room ", i)})["room_id"].(string)
		c.alice.Do("PUT", "/v3/rooms/"+url.PathEscape(c.space)+"/state/m.space.child/"+url.PathEscape(child), map[string]any{"via": []string{"hs1.test"}})
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

// cold returns the SQL statements that a read executes on a server that has just started.
func (c *crowd) cold(read func(*crowd) error) []string {
	c.Helper()
	c.net.Stop(0)
	c.net.Start(0)
	var err error
	list := c.net.Servers[0].Reads(func() { err = read(c) })
	if err != nil {
		c.Fatal(err)
	}
	return list
}

// coldReads returns requests whose responses grow with the size of a room.
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
	lazy := func(*crowd) string { return `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":20}}}` }
	only := func(more string) func(*crowd) string {
		return func(c *crowd) string { return `{"room":{"rooms":["` + c.room + `"]` + more + `}}` }
	}
	return map[string]func(*crowd) error{
		"members":                  get("/v3/rooms/%s/members", room),
		"members, joined":          get("/v3/rooms/%s/members?membership=join", room),
		"members, at":              get("/v3/rooms/%s/members?at=%s", room, back),
		"joined members":           get("/v3/rooms/%s/joined_members", room),
		"state":                    get("/v3/rooms/%s/state", room),
		"messages":                 get("/v3/rooms/%s/messages?dir=b&limit=1000", room),
		"messages, lazy":           get("/v3/rooms/%s/messages?dir=b&limit=1000&filter=%s", room, func(*crowd) string { return `{"lazy_load_members":true}` }),
		"context":                  get("/v3/rooms/%s/context/%s?limit=100", room, last),
		"context, lazy":            get("/v3/rooms/%s/context/%s?limit=100&filter=%s", room, last, func(*crowd) string { return `{"lazy_load_members":true}` }),
		"threads":                  get("/v1/rooms/%s/threads?limit=100", room),
		"first sync, one room":     get("/v3/sync?filter=%s", only("")),
		"first sync, one, lazy":    get("/v3/sync?filter=%s", only(`,"timeline":{"limit":20},"state":{"lazy_load_members":true}`)),
		"sync after a gap":         get("/v3/sync?filter=%s&since=%s", only(""), back),
		"sync after a gap, lazy":   get("/v3/sync?filter=%s&since=%s", only(`,"timeline":{"limit":20},"state":{"lazy_load_members":true}`), back),
		"sync, full state":         get("/v3/sync?filter=%s&since=%s&full_state=true", only(""), back),
		"first sync of many rooms": get("/v3/sync"),
		"first sync, lazy":         get("/v3/sync?filter=%s", lazy),
		"joined rooms":             get("/v3/joined_rooms"),
		"public rooms":             get("/v3/publicRooms"),
		"hierarchy":                get("/v1/rooms/%s/hierarchy?limit=100", func(c *crowd) string { return c.space }),
		"keys/changes": get("/v3/keys/changes?from=%s&to=%s", back, func(c *crowd) string {
			return c.alice.Do("GET", "/v3/sync?filter="+url.QueryEscape(`{"room":{"rooms":[]}}`), nil)["next_batch"].(string)
		}),
		"keys/query": func(c *crowd) error {
			wanted := map[string][]string{}
			for _, u := range c.users {
				wanted[u] = []string{}
			}
			c.alice.Do("POST", "/v3/keys/query", map[string]any{"device_keys": wanted})
			return nil
		},
		"user directory": func(c *crowd) error {
			c.alice.Do("POST", "/v3/user_directory/search", map[string]any{"search_term": "guest", "limit": 100})
			return nil
		},
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
		"federation: backfill": func(c *crowd) error {
			_, err := c.other.Backfill(context.Background(), "hs1.test", id.RoomID(c.room), []id.EventID{id.EventID(c.last)}, 100)
			return err
		},
		"federation: get_missing_events": func(c *crowd) error {
			_, err := c.other.GetMissingEvents(context.Background(), "hs1.test", id.RoomID(c.room), nil, []id.EventID{id.EventID(c.last)}, 20, 0)
			return err
		},
		"federation: user_keys": func(c *crowd) error {
			wanted := map[id.UserID][]id.DeviceID{}
			for _, u := range c.users {
				wanted[id.UserID(u)] = nil
			}
			_, err := c.other.QueryDeviceKeys(context.Background(), "hs1.test", wanted)
			return err
		},
		"federation: make_join": func(c *crowd) error {
			_, err := c.other.MakeJoin(context.Background(), "hs1.test", id.RoomID(c.room), "@carol:hs2.test", []id.RoomVersion{"10", "11", "12"})
			return err
		},
	}
}

// A read that queries the database once for each event or member takes minutes in a large room.
func TestColdReadsDoNotAskTheDatabaseOncePerEvent(t *testing.T) {
	const few, many = 4, 40
	compareCold(t, newCrowd(t, few, 2), newCrowd(t, many, 2), many-few, func(string) float64 { return 0.5 })
}

// A request that involves many rooms reads them together.
func TestColdReadsTakeFewStatementsForEachRoom(t *testing.T) {
	const few, many = 4, 40
	compareCold(t, newCrowd(t, 1, few), newCrowd(t, 1, many), many-few, func(name string) float64 {
		if name == "hierarchy" || name == "public rooms" {
			return 2.5
		}
		return 0.5
	})
}

// compareCold compares how many statements the reads execute on two servers. The large one has more entries of some
// kind than the small one; for each of them, a read may execute up to most(name) further statements.
func compareCold(t *testing.T, small, large *crowd, more int, most func(name string) float64) {
	reads := coldReads()
	for _, name := range slices.Sorted(maps.Keys(reads)) {
		before, after := small.cold(reads[name]), large.cold(reads[name])
		if float64(len(after)-len(before)) > most(name)*float64(more) {
			t.Errorf("%s: %d statements on the small server and %d on the large one, more than allowed%s", name, len(before), len(after), difference(before, after))
		} else {
			t.Logf("%s: %d and %d%s", name, len(before), len(after), difference(before, after))
		}
	}
}

// difference lists the statements that are executed more often in after than in before.
func difference(before, after []string) string {
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
