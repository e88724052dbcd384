package rooms

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
	"ebb/storage"
)

// joinVersions has one room version for each format: with event IDs chosen by servers, with and without the create
// event among the auth events.
var joinVersions = []id.RoomVersion{id.RoomV1, id.RoomV6, id.RoomV11, id.RoomV12}

// newcomer is a room of one server that another server joins. When asked for missing events, the servers also return
// events from before the join.
type newcomer struct {
	*pastRoom
	between id.EventID // ID of an event sent between make_join and send_join
}

func eachNewcomer(t *testing.T, versions []id.RoomVersion, messages int, f func(t *testing.T, h *newcomer)) {
	for _, version := range versions {
		t.Run("v"+string(version), func(t *testing.T) { f(t, joinMidway(t, version, messages)) })
	}
}

// joinMidway joins bob to a room with some messages. alice sends a message during the join.
func joinMidway(t *testing.T, version id.RoomVersion, messages int) *newcomer {
	n := newNetwork(t)
	n.heedless = true
	h := &newcomer{pastRoom: &pastRoom{n: n, old: n.add("old"), late: n.add("late")}}
	h.alice, h.bob = h.old.user("alice"), h.late.user("bob")
	h.room = h.old.create(h.alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
	for i := range messages {
		h.old.now = h.old.now.Add(time.Second)
		h.said = append(h.said, h.old.say(h.alice, h.room, fmt.Sprint("said ", i)))
		if i == messages/10 {
			levels := h.old.content(h.room, typePowerLevels, "")
			h.old.set(h.alice, h.room, typePowerLevels, "", `{"changed":true,`+levels[1:])
		}
	}
	h.late.now = h.old.now
	n.onJoin = func() { h.between = h.old.say(h.alice, h.room, "while bob joins") }
	h.late.joinVia(h.bob, h.room, "old")
	n.onJoin = nil
	return h
}

// shown returns the events of the timeline that arrived live and that clients see, oldest first.
func (p *peer) shown(room id.RoomID) (ids []id.EventID) {
	p.Helper()
	for _, e := range p.timeline(room) {
		if !e.Hidden() && !e.Backfilled() {
			ids = append(ids, e.ID())
		}
	}
	return ids
}

// lives checks that the joining server shows the given events as new, and none from before the join.
func (h *newcomer) lives(events ...id.EventID) {
	h.n.Helper()
	shown := h.late.shown(h.room)
	for _, e := range events {
		if !slices.Contains(shown, e) {
			h.n.Errorf("%s is not shown: %+v", e, h.late.stored(h.room, e))
		}
	}
	for _, e := range h.said {
		if slices.Contains(shown, e) {
			h.n.Fatalf("a message from before the join is shown as new: %s", e)
		}
	}
	h.late.matchesDisk(h.room)
}

// readsAll checks that bob can read back everything that alice can read.
func (h *newcomer) readsAll() {
	h.n.Helper()
	got := h.late.pages(h.bob, h.room, 50)
	for _, eventID := range h.old.pages(h.alice, h.room, 1000) {
		if !slices.Contains(got, eventID) {
			h.n.Fatalf("of %d events %s cannot be read: %s", len(got), eventID, h.old.stored(h.room, eventID).JSON())
		}
	}
}

func TestWriteWhileServerJoinsDoesNotBringItsHistory(t *testing.T) {
	for _, messages := range []int{5, 300, 3000} {
		versions := joinVersions
		if messages == 3000 {
			versions = versions[2:]
		}
		t.Run(fmt.Sprint(messages), func(t *testing.T) {
			eachNewcomer(t, versions, messages, func(t *testing.T, h *newcomer) {
				after := []id.EventID{h.between}
				for i := range 3 {
					after = append(after, h.old.say(h.alice, h.room, fmt.Sprint("after ", i)))
				}
				h.n.deliver()
				after = append(after, h.late.say(h.bob, h.room, "hello"))
				h.n.deliver()
				after = append(after, h.old.say(h.alice, h.room, "welcome"))
				h.n.deliver()
				h.lives(after...)
				if messages < 1000 {
					h.readsAll()
				}
			})
		})
	}
}

// fork makes a third server, which was disconnected, add events to the graph from before the join, and delivers them to
// the first server after the join.
func (h *newcomer) fork(messages int) (events []id.EventID) {
	h.n.Helper()
	h.n.split([]string{"old", "late"}, []string{"third"})
	third := h.n.peers["third"]
	for i := range messages {
		events = append(events, third.say(third.user("carol"), h.room, fmt.Sprint("beside the join ", i)))
	}
	return events
}

// forked returns a room whose graph forks some events before the join.
func forked(t *testing.T, version id.RoomVersion, before, beside, since int) (h *newcomer, events []id.EventID) {
	n := newNetwork(t)
	n.heedless = true
	h = &newcomer{pastRoom: &pastRoom{n: n, old: n.add("old"), late: n.add("late")}}
	h.alice, h.bob = h.old.user("alice"), h.late.user("bob")
	h.room = h.old.create(h.alice, CreateRoom{Preset: "public_chat", RoomVersion: version})
	third := n.add("third")
	third.joinVia(third.user("carol"), h.room, "old")
	n.deliver()
	for i := range before {
		h.said = append(h.said, h.old.say(h.alice, h.room, fmt.Sprint("said ", i)))
	}
	n.deliver()
	events = h.fork(beside)
	for i := range since {
		h.said = append(h.said, h.old.say(h.alice, h.room, fmt.Sprint("since ", i)))
	}
	h.late.joinVia(h.bob, h.room, "old")
	return h, events
}

func TestForkNearJoinIsLive(t *testing.T) {
	for _, version := range joinVersions {
		for _, shape := range []struct{ before, beside, since int }{{40, 1, 3}, {40, 3, 10}, {300, 5, 1}, {3, 10, 5}, {40, 4, 60}} {
			t.Run(fmt.Sprintf("v%s/%d-%d-%d", version, shape.before, shape.beside, shape.since), func(t *testing.T) {
				h, beside := forked(t, version, shape.before, shape.beside, shape.since)
				h.n.split([]string{"old", "third"}, []string{"late"})
				h.n.deliver()
				h.n.split()
				h.n.deliver()
				merged := h.old.say(h.alice, h.room, "after both")
				h.n.deliver()
				h.lives(append(beside, merged)...)
				h.readsAll()
			})
		}
	}
}

// The messages of the third server do not arrive at the server that joined, which learns of them only through the
// events that follow them.
func TestForkNearJoinThatIsCitedLaterIsAccepted(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			h, beside := forked(t, version, 40, 3, 5)
			h.n.split([]string{"old", "third"}, []string{"late"})
			h.n.deliver()
			h.n.mu.Lock()
			h.n.sent = nil // drops the third server's messages for the server late
			h.n.mu.Unlock()
			h.n.split()
			merged := h.old.say(h.alice, h.room, "after both")
			h.n.deliver()
			h.lives(append(beside, merged)...)
			h.readsAll()
		})
	}
}

// resend makes the old server send stored events again.
func (h *newcomer) resend(events ...id.EventID) map[id.EventID]error {
	h.n.Helper()
	var raws []json.RawMessage
	for _, eventID := range events {
		raws = append(raws, h.old.stored(h.room, eventID).JSON())
	}
	results, err := h.late.svc.Receive(h.n.Context(), "old", h.room, raws)
	h.n.peers["late"].ok(err)
	return results
}

func (h *newcomer) create() id.EventID { return h.old.house.room(h.room).State(typeCreate, "").ID() }

func TestCreateEventThatArrivesAgainIsKnown(t *testing.T) {
	eachNewcomer(t, joinVersions, 5, func(t *testing.T, h *newcomer) {
		for range 2 {
			for eventID, err := range h.resend(h.create()) {
				if err != nil {
					t.Errorf("%s: %v", eventID, err)
				}
			}
		}
		next := h.old.say(h.alice, h.room, "next")
		h.n.deliver()
		h.lives(h.between, next)
		h.readsAll()
	})
}

func TestEventFromBeforeJoinThatArrivesAgainStaysHistory(t *testing.T) {
	eachNewcomer(t, joinVersions, 60, func(t *testing.T, h *newcomer) {
		again := []id.EventID{h.said[59], h.said[58], h.said[30], h.said[0]}
		r := h.old.house.room(h.room)
		for _, typ := range []string{typePowerLevels, typeJoinRules, typeHistoryVisibility} {
			again = append(again, r.State(typ, "").ID())
		}
		again = append(again, r.State(typeMember, string(h.alice.UserID)).ID())
		for _, eventID := range again {
			for eventID, err := range h.resend(eventID) {
				if err != nil {
					t.Errorf("%s: %v", eventID, err)
				}
			}
		}
		next := h.old.say(h.alice, h.room, "next")
		h.n.deliver()
		h.lives(h.between, next)
		h.readsAll()
	})
}

// The whole history arrives in transactions, as from a server that catches up on sending.
func TestHistoryThatArrivesInTransactionsIsAccepted(t *testing.T) {
	eachNewcomer(t, joinVersions, 30, func(t *testing.T, h *newcomer) {
		var all []id.EventID
		for _, e := range h.old.timeline(h.room) {
			all = append(all, e.ID())
		}
		h.resend(all[:20]...)
		h.resend(all...)
		slices.Reverse(all)
		h.resend(all...)
		next := h.old.say(h.alice, h.room, "next")
		h.n.deliver()
		h.lives(h.between, next)
		for _, e := range all {
			if s := h.late.stored(h.room, e); s != nil && s.Flags&storage.RejectedEvent != 0 {
				t.Errorf("an event of the history is rejected: %s", s.JSON())
			}
		}
		h.readsAll()
		h.late.matchesDisk(h.room)
	})
}

// An event that was sent in a transaction must not be hidden only because its depth is low, which its sender may have
// set wrongly.
func TestSentEventOfLowDepthIsLive(t *testing.T) {
	for _, version := range joinVersions {
		t.Run("v"+string(version), func(t *testing.T) {
			h, _ := forked(t, version, 40, 0, 5)
			h.n.deliver()
			s := h.n.stranger("shallow", h.late)
			s.join(h.room, s.user("dave"))
			h.n.deliver()
			e := s.make(h.room, pdu.Proto{Type: "m.room.message", Sender: s.user("dave"), Depth: 2, Content: json.RawMessage(`{"body":"shallow"}`)})
			s.sendGood(h.room, e)
			h.lives(e.ID())
		})
	}
}

// An event of the state that came with the join is sent again, by a server that claims a different state before it.
func TestStateEventThatFailsOnAClaimedStateKeepsItsEffect(t *testing.T) {
	eachNewcomer(t, []id.RoomVersion{id.RoomV6, id.RoomV12}, 150, func(t *testing.T, h *newcomer) {
		levels := h.old.house.room(h.room).State(typePowerLevels, "")
		liar := h.n.stranger("liar", h.late)
		liar.join(h.room, liar.user("mallory"))
		h.n.deliver()
		liar.stateIDs = func(id.EventID) (state, chain []id.EventID, err error) { return []id.EventID{h.create()}, nil, nil }
		_, err := h.late.svc.Receive(t.Context(), "liar", h.room, []json.RawMessage{levels.JSON()})
		h.late.ok(err)
		if e := h.late.stored(h.room, levels.ID()); e.Flags&storage.RejectedEvent == 0 {
			t.Fatalf("the power levels have the flags %d, want them rejected on the false state: the test proves nothing", e.Flags)
		}
		next := h.old.say(h.alice, h.room, "next")
		name := h.old.set(h.alice, h.room, typeName, "", `{"name":"still ours"}`)
		h.n.deliver()
		h.lives(h.between, next, name)
		if got := h.late.house.room(h.room).Levels().UserLevel(h.alice.UserID); got < 100 {
			t.Errorf("alice has power level %d, want at least 100", got)
		}
		h.late.svc = h.late.open()
		last := h.old.say(h.alice, h.room, "last")
		h.n.deliver()
		h.lives(last)
	})
}

// damage stores what an earlier version of Ebb made of a room whose history arrived as missing events: all of these
// events, the event sent during the join and those that followed are rejected.
func (h *newcomer) damage(followed ...id.EventID) {
	h.n.Helper()
	r := h.late.house.room(h.room)
	join := r.State(typeMember, string(h.bob.UserID))
	var all []*Event
	for _, e := range h.old.timeline(h.room) {
		if e.ID() != join.ID() {
			all = append(all, e)
		}
	}
	h.late.ok(h.late.db.Write(h.n.Context(), func(tx *storage.Tx) error {
		for _, e := range all {
			if !slices.Contains(followed, e.ID()) && e.Depth() > join.Depth() {
				continue
			}
			row := e.Row()
			row.Position, row.Room, row.Order, row.Snapshot, row.Flags, row.Device, row.TxnID = tx.NextPos(), r.nid, 0, 0, storage.RejectedEvent, 0, ""
			sender, err := tx.UserNID(string(e.Sender()))
			if err != nil {
				return err
			}
			if row.Sender = sender; !row.IsState {
				pruned, err := e.Redact()
				if err != nil {
					return err
				}
				row.JSON = pruned.JSON()
			}
			if err := tx.InsertEvent(&row); err != nil {
				return err
			}
			if err := tx.DeleteBackwardEdge(r.nid, row.EventID); err != nil {
				return err
			}
		}
		return tx.SetEntered(r.nid, 0, true)
	}))
	h.late.svc = h.late.open()
}

func TestRoomsDamagedByTheirHistoryAreRepaired(t *testing.T) {
	for _, repair := range []string{"when the server starts", "when an event arrives"} {
		t.Run(repair, func(t *testing.T) {
			eachNewcomer(t, joinVersions, 30, func(t *testing.T, h *newcomer) {
				lost := []id.EventID{h.between, h.old.say(h.alice, h.room, "rejected"), h.old.say(h.alice, h.room, "rejected too")}
				h.n.mu.Lock()
				h.n.sent = nil
				h.n.mu.Unlock()
				h.damage(lost...)
				if repair == "when the server starts" {
					h.late.ok(h.late.svc.RepairRooms(t.Context()))
				} else {
					lost = append(lost, h.old.say(h.alice, h.room, "after the repair"))
					h.n.deliver()
				}
				h.lives(lost...)
				h.readsAll()
				h.late.svc = h.late.open()
				lost = append(lost, h.late.say(h.bob, h.room, "hello"), h.old.say(h.alice, h.room, "welcome back"))
				h.n.deliver()
				h.lives(lost...)
				if h.late.house.room(h.room).toRecheck() {
					t.Error("after the repair the room still has to be checked")
				}
			})
		})
	}
}

// An interrupted repair is repeated. Here it is interrupted after its first part, which removed the rejected events.
func TestInterruptedRepairIsRepeated(t *testing.T) {
	eachNewcomer(t, []id.RoomVersion{id.RoomV11}, 30, func(t *testing.T, h *newcomer) {
		h.damage(h.between)
		r := h.late.house.room(h.room)
		_, err := h.late.svc.forgetRejected(t.Context(), r, r.State(typeMember, string(h.bob.UserID)).Pos)
		h.late.ok(err)
		h.late.svc = h.late.open()
		h.late.ok(h.late.svc.RepairRooms(t.Context()))
		next := h.old.say(h.alice, h.room, "next")
		h.n.deliver()
		h.lives(h.between, next)
		h.readsAll()
	})
}

// The old server sends everything from while bob was away in one transaction. Each event follows the one before, so
// that only the first is a suspect by itself.
func TestHistoryOfAnAbsenceThatArrivesTogetherStaysHistory(t *testing.T) {
	eachNewcomer(t, joinVersions, 5, func(t *testing.T, h *newcomer) {
		h.n.deliver()
		h.late.ok(h.late.svc.Leave(t.Context(), h.bob, h.room, ""))
		h.n.deliver()
		var away []id.EventID
		for i := range 6 {
			away = append(away, h.old.say(h.alice, h.room, fmt.Sprint("away ", i)))
			h.n.deliver()
		}
		h.said = append(h.said, away...)
		h.late.joinVia(h.bob, h.room, "old")
		h.n.deliver()
		h.resend(away...)
		next := h.old.say(h.alice, h.room, "next")
		h.n.deliver()
		h.lives(next)
		h.readsAll()
	})
}

// bob leaves and joins again and again, and the old server sends parts of the history again, in any order. What was
// sent while bob was away is history; what was sent while he was in the room is not lost.
func TestHistoryThatArrivesAgainStaysHistoryOverSeveralStays(t *testing.T) {
	for i, version := range pdu.Versions() {
		t.Run("v"+string(version), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(uint64(i), 77))
			h := joinMidway(t, version, 5+dice.IntN(40))
			h.n.deliver()
			live, in := []id.EventID(nil), true
			enter := func() {
				h.late.joinVia(h.bob, h.room, "old")
				in = true
			}
			for step := range 40 {
				h.old.now, h.late.now = h.old.now.Add(time.Second), h.old.now.Add(time.Second)
				switch dice.IntN(8) {
				case 0:
					if in {
						h.late.ok(h.late.svc.Leave(t.Context(), h.bob, h.room, ""))
						in = false
					} else {
						enter()
					}
				case 1:
					if in {
						live = append(live, h.late.say(h.bob, h.room, fmt.Sprint("bob ", step)))
					}
				case 2, 3, 4:
					said := h.old.say(h.alice, h.room, fmt.Sprint("alice ", step))
					if in {
						live = append(live, said)
					} else {
						h.said = append(h.said, said)
					}
				default:
					all := h.old.timeline(h.room)
					dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
					var again []id.EventID
					for _, e := range all[:min(len(all), 1+dice.IntN(30))] {
						if in || slices.Contains(h.said, e.ID()) || slices.Contains(live, e.ID()) {
							again = append(again, e.ID())
						}
					}
					h.resend(again...)
				}
				h.n.deliver()
			}
			if !in {
				enter()
			}
			live = append(live, h.old.say(h.alice, h.room, "at last"))
			h.n.deliver()
			h.lives(live...)
			h.readsAll()
			if mine, theirs := stateIDs(h.late.house, h.room), stateIDs(h.old.house, h.room); !maps.Equal(mine, theirs) {
				t.Errorf("the states differ: %v and %v", mine, theirs)
			}
		})
	}
}
