package history

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms"
)

// relateRandomly sends n messages of which most relate to earlier ones.
func (y *chronicle) relateRandomly(r *rand.Rand, n int) {
	senders := map[id.EventID]int{}
	var said, roots []id.EventID
	say := func(who int, relates string) {
		if y.load(y.room).Membership(y.users[who].UserID) != rooms.Join {
			who = 0
		}
		e := y.send(y.users[who], y.room, "m.room.message", `{"body":"x","m.new_content":{"body":"y"}`+relates+`}`)
		said, senders[e] = append(said, e), who
	}
	for range n {
		who := r.IntN(len(y.users))
		if len(said) == 0 || r.IntN(6) == 0 {
			say(who, "")
			roots = append(roots, said[len(said)-1])
			continue
		}
		to := said[r.IntN(len(said))]
		relation := []string{"m.thread", "m.thread", "m.replace", "m.replace", "m.reference", "m.annotation"}[r.IntN(6)]
		if relation == "m.thread" {
			to = roots[r.IntN(len(roots))]
		}
		if relation == "m.replace" && r.IntN(4) > 0 {
			who = senders[to]
		}
		say(who, fmt.Sprintf(`,"m.relates_to":{"rel_type":%q,"event_id":%q,"key":%q}`, relation, to, fmt.Sprint(len(said))))
		if r.IntN(12) == 0 {
			_, err := y.rooms.Redact(y.t.Context(), y.users[0], y.room, said[r.IntN(len(said))], "", nil)
			y.check(err)
		}
	}
}

// The aggregations of a page are read together, those of a single event separately.
func TestEventsHaveTheSameAggregationsOnAPageAsAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, h *library) {
		bundled := 0
		for seed := range uint64(3) {
			r := rand.New(rand.NewPCG(seed, 7))
			y := newChronicle(h)
			if seed == 1 {
				y.state(y.users[0], y.room, "m.room.history_visibility", "", `{"history_visibility":"joined"}`)
			}
			y.relateRandomly(r, 150)
			y.check(y.rooms.Leave(t.Context(), y.users[3], y.room, ""))
			y.relateRandomly(r, 20)
			y.ignore(r, y.users[1])
			h.restart()
			for _, user := range y.users {
				page, err := h.svc.Messages(t.Context(), y.room, user, PageRequest{Backwards: true, Limit: MaxPage})
				y.check(err)
				if len(page.Chunk) < 100 {
					t.Fatalf("a page of %d events", len(page.Chunk))
				}
				for _, form := range page.Chunk {
					bundled += y.sameAlone(user.UserID, form)
				}
			}
		}
		if bundled < 300 {
			t.Errorf("too few aggregations: %d", bundled)
		}
	})
}

// sameAlone compares an event of a page with the same event read alone. It returns the number of its aggregations.
func (y *chronicle) sameAlone(reader id.UserID, form json.RawMessage) (bundled int) {
	y.t.Helper()
	raw, _ := canonjson.Get(form, "event_id")
	for _, user := range y.users {
		if user.UserID != reader {
			continue
		}
		alone, err := y.svc.GetEvent(y.t.Context(), y.room, id.EventID(canonjson.String(raw)), user)
		if y.check(err); string(alone) != string(form) {
			y.t.Fatalf("%s: on a page\n%s\nalone\n%s", reader, form, alone)
		}
	}
	for _, typ := range []string{relThread, relReplace, relReference} {
		bundled += strings.Count(string(form), fmt.Sprintf("%q:", typ))
	}
	return bundled
}
