package e2ee

import (
	cryptorand "crypto/rand"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"ebb/ident"
	"ebb/storage"
)

// receive delivers a message from another server to device A of @alice:test.
func (f *federated) receive(origin, sender, body string) {
	f.t.Helper()
	f.messageID++
	raw := fmt.Sprintf(`{"sender":%q,"type":"m.test","message_id":"m%d","messages":{"@alice:test":{"A":{"body":%q}}}}`, sender, f.messageID, body)
	if err := f.ReceiveDirectToDevice(f.t.Context(), origin, json.RawMessage(raw)); err != nil {
		f.t.Fatal(err)
	}
}

// waiting returns those of the given bodies that are in the queue of a device, and the total cost of the queue.
func (f *federated) waiting(device ident.DeviceNID, of ...string) (found []string, cost int64) {
	f.t.Helper()
	f.read(func(tx *storage.Tx) error {
		rows, err := tx.ToDevice(device, 0, tx.Settled(), 100_000)
		for _, r := range rows {
			cost += int64(len(r.JSON)) + messageCost
			var m struct{ Content struct{ Body string } }
			if err := json.Unmarshal([]byte(r.JSON), &m); err != nil {
				return err
			}
			if slices.Contains(of, m.Content.Body) {
				found = append(found, m.Content.Body)
			}
		}
		return err
	})
	return found, cost
}

func TestAFloodOfMessagesDoesNotDisplaceOtherSendersRoomKeys(t *testing.T) {
	big := strings.Repeat("x", 60_000)
	for name, flood := range map[string]func(f *federated){
		"by a user of another server in the room": func(f *federated) {
			f.membership("@flood:elsewhere", 1, "join")
			for range 700 {
				f.receive(away, "@flood:elsewhere", big)
			}
		},
		"by many users of a server in no room": func(f *federated) {
			for i := range 700 {
				f.receive("evil", fmt.Sprintf("@flood%d:evil", i), big)
			}
			for range maxStrangerMessages {
				raw := fmt.Sprintf(`{"sender":"@x:evil","type":"m.test","message_id":%q,"messages":{"@alice:test":{"A":{}}}}`, cryptorand.Text())
				if f.ReceiveDirectToDevice(f.t.Context(), "evil", json.RawMessage(raw)) != nil {
					return
				}
			}
			f.t.Error("every message of a server in no room is taken")
		},
		"by many servers in no room": func(f *federated) {
			for i := range 200 {
				server := fmt.Sprintf("evil%d", i)
				f.receive(server, "@flood:"+server, big)
			}
		},
		"by a user of this server": func(f *federated) {
			bob := f.device("bob", "B")
			for i := range 700 {
				all := messages{"@alice:test": {"A": json.RawMessage(fmt.Sprintf(`{"body":%q}`, big))}}
				if err := f.SendToDevice(f.t.Context(), bob, "/x", fmt.Sprint(i), "m.test", all); err != nil {
					f.t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFederated(t)
			alice, carol := f.device("alice", "A"), f.device("carol", "C")
			f.membership("@alice:test", 1, "join")
			f.membership(far, 1, "join")
			f.membership("@third:third", 1, "join")
			f.receive(away, string(far), "key of far")
			f.receive("third", "@third:third", "key of third")
			if err := f.SendToDevice(t.Context(), carol, "/x", "1", "m.test", messages{"@alice:test": {"A": json.RawMessage(`{"body":"key of carol"}`)}}); err != nil {
				t.Fatal(err)
			}
			flood(f)
			kept, cost := f.waiting(alice.DeviceNID, "key of far", "key of third", "key of carol")
			if len(kept) != 3 {
				t.Errorf("what is left: %q", kept)
			}
			if cost > maxToDeviceBacklog+2*measureEvery {
				t.Errorf("the queue has %d bytes", cost)
			}
		})
	}
}

func TestManyEmptyMessagesDisplaceNoRoomKey(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.membership("@alice:test", 1, "join")
	f.membership(far, 1, "join")
	f.receive(away, string(far), "key")
	from := storage.ToDeviceFrom{Origin: f.opts.DB.IDHash("evil"), Sender: f.opts.DB.IDHash("@flood:evil"), Stranger: true}
	for range 20 {
		f.write(func(tx *storage.Tx) error {
			m := delivery{backlogs: &f.backlogs, from: from}
			for range 1000 {
				if err := m.add(tx, alice.DeviceNID, `{"content":{},"sender":"@flood:evil","type":"m.test"}`); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if kept, cost := f.waiting(alice.DeviceNID, "key"); len(kept) != 1 || cost > maxStrangerBacklog+measureEvery {
		t.Errorf("what is left: %q, %d bytes", kept, cost)
	}
}

func TestMessagesOfTheSendersWithTheMostAreDroppedFirst(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var rows []storage.BacklogRow
		for i := range r.IntN(3000) {
			rows = append(rows, storage.BacklogRow{Position: storage.Pos(i + 1), Size: int64(r.IntN(64 << 10)), ToDeviceFrom: storage.ToDeviceFrom{
				Origin: int64(r.IntN(4)), Sender: int64(r.IntN(9)), Stranger: r.IntN(8) == 0,
			}})
		}
		drop, left := overflow(rows)
		gone := map[storage.Pos]bool{}
		for _, p := range drop {
			if gone[p] {
				t.Fatal("a message goes twice")
			}
			gone[p] = true
		}
		var total, strangers int64
		kept, cut := map[int64]int64{}, map[int64]bool{}
		for _, row := range rows {
			switch {
			case gone[row.Position]:
				if !row.Stranger {
					cut[row.Origin] = true
				}
				continue
			case row.Stranger:
				strangers += costOf(row)
			default:
				kept[row.Origin] += costOf(row)
			}
			total += costOf(row)
		}
		if total > maxToDeviceBacklog || strangers > maxStrangerBacklog || left > maxToDeviceBacklog-total {
			t.Fatalf("%d bytes stay, %d of strangers; %d more are said to fit", total, strangers, left)
		}
		for origin := range cut {
			for other, has := range kept { // give or take a message
				if !cut[other] && has > kept[origin]+(64<<10+messageCost)*9 {
					t.Fatalf("origin %d was cut to %d, and %d keeps %d", origin, kept[origin], other, has)
				}
			}
		}
	}
}
