package server_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// searchModel performs random actions in some rooms and compares the results of searches with those of a scan of
// /messages.
type searchModel struct {
	*testing.T
	s     *testserver.Server
	r     *rand.Rand
	users []*searcher
	rooms []string
	sent  map[string][]string // event IDs by room and sender
}

var modelWords = []string{"apple", "Pear", "plum", "fig", "Ünder", "東京", "京都", "lime"}

func (m *searchModel) body() string {
	var words []string
	for range 1 + m.r.IntN(4) {
		words = append(words, modelWords[m.r.IntN(len(modelWords))])
	}
	return strings.Join(words, " ")
}

// act performs one random action. The server refuses what the user may not do.
func (m *searchModel) act() {
	u, room := m.users[m.r.IntN(len(m.users))], m.rooms[m.r.IntN(len(m.rooms))]
	base, key := "/v3/rooms/"+url.PathEscape(room), room+u.User
	try := func(method, path string, content obj) string {
		status, _, raw := u.Raw(method, path, content)
		if status >= 500 {
			m.Errorf("%s %s: %d %s", method, path, status, raw)
		}
		event, _ := decode(m.T, raw)["event_id"].(string)
		return event
	}
	own := m.sent[key]
	u.n++
	switch k := m.r.IntN(20); {
	case k < 8:
		if event := try("PUT", fmt.Sprint(base, "/send/m.room.message/", u.n), obj{"msgtype": "m.text", "body": m.body()}); event != "" {
			m.sent[key] = append(own, event)
		}
	case k < 11 && len(own) > 0:
		text := m.body()
		try("PUT", fmt.Sprint(base, "/send/m.room.message/", u.n), obj{
			"msgtype": "m.text", "body": "* " + text, "m.new_content": obj{"msgtype": "m.text", "body": text},
			"m.relates_to": obj{"rel_type": "m.replace", "event_id": own[m.r.IntN(len(own))]},
		})
	case k < 13 && len(own) > 0:
		try("PUT", fmt.Sprint(base, "/redact/", url.PathEscape(own[m.r.IntN(len(own))]), "/", u.n), obj{})
	case k < 14:
		try("PUT", base+"/state/m.room.topic", obj{"topic": m.body()})
	case k < 15:
		visibility := []string{"joined", "invited", "shared", "world_readable"}[m.r.IntN(4)]
		try("PUT", base+"/state/m.room.history_visibility", obj{"history_visibility": visibility})
	case k < 17:
		try("POST", base+"/join", obj{})
	case k < 18 && u != m.users[0]:
		try("POST", base+"/leave", obj{})
	case k < 19:
		m.s.Advance(time.Duration(m.r.IntN(4000)) * time.Millisecond)
	default:
		m.flush()
	}
}

func (m *searchModel) flush() {
	m.Helper()
	for _, do := range []error{m.s.SearchIndex().CatchUp(m.Context()), m.s.SearchIndex().Flush(m.Context())} {
		if do != nil {
			m.Fatal(do)
		}
	}
}

// scan returns the IDs of all events whose text contains a word, by reading /messages of every room that the user can
// read.
func (m *searchModel) scan(u *searcher, word string) (ids []string) {
	ids = []string{}
	for _, room := range m.rooms {
		status, _, raw := u.Raw("GET", "/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=1000", nil)
		if status != 200 {
			continue
		}
		for _, e := range list(decode(m.T, raw), "chunk") {
			text, _ := get(e, "content", "body").(string)
			if get(e, "type") == "m.room.topic" {
				text, _ = get(e, "content", "topic").(string)
			}
			if newer, ok := get(e, "unsigned", "m.relations", "m.replace", "content", "m.new_content", "body").(string); ok {
				text = newer
			}
			if get(e, "content", "m.relates_to", "rel_type") == "m.replace" {
				continue
			}
			fold := strings.NewReplacer("ü", "u").Replace(strings.ToLower(text))
			if strings.Contains(fold, strings.NewReplacer("ü", "u").Replace(strings.ToLower(word))) {
				ids = append(ids, get(e, "event_id").(string))
			}
		}
	}
	slices.Sort(ids)
	return ids
}

func (m *searchModel) compare() {
	m.Helper()
	for _, u := range m.users {
		for _, word := range append(modelWords, "京", "under") {
			answer := u.search(word, obj{"filter": obj{"limit": 100}})
			got, want := idsOf(answer), m.scan(u, word)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				m.Errorf("%s finds %d events with %q, and can read %d:\n%v\n%v", u.User, len(got), word, len(want), got, want)
			}
			if int(answer["count"].(float64)) != len(want) {
				m.Errorf("%s: count of %q is %v, want %d", u.User, word, answer["count"], len(want))
			}
		}
	}
}

func TestSearchFindsWhatAScanOfTheRoomsFinds(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := &searchModel{T: t, s: testserver.New(t, nil), r: rand.New(rand.NewPCG(seed, 3)), sent: map[string][]string{}}
			for _, name := range []string{"alice", "bob", "carol"} {
				m.users = append(m.users, newSearcher(t, m.s, name))
			}
			for i := range 3 {
				m.rooms = append(m.rooms, m.users[0].createRoom(obj{"preset": "public_chat"}))
				m.users[1+i%2].join(m.rooms[i])
			}
			m.users[0].state(m.rooms[2], "m.room.retention", obj{"max_lifetime": 60_000})
			for range 4 {
				for range 60 {
					m.act()
				}
				m.compare()
				m.s.Advance(20 * time.Second)
				if _, err := m.s.Control(t.Context(), "purge now", nil); err != nil {
					t.Fatal(err)
				}
				m.compare()
			}
		})
	}
}
