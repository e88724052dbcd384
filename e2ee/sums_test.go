package e2ee

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// waitingFrom returns what a sender has in the queues of all devices, and how many messages that are.
func (f *federated) waitingFrom(of sender) (cost int64, messages int64) {
	f.t.Helper()
	f.read(func(tx *storage.Tx) error {
		all, err := tx.ToDeviceSums(of.origin, of.stranger)
		for _, sum := range all {
			cost, messages = cost+costOfSum(sum), messages+sum.Messages
		}
		return err
	})
	return cost, messages
}

func TestASenderCannotFillTheQueuesOfAllDevices(t *testing.T) {
	const devices, bound = 20, 1 << 20
	big := strings.Repeat("x", 10_000)
	for name, c := range map[string]struct {
		of    func(f *federated) sender
		flood func(f *federated, from ident.Requester, i int, device string) error
		kept  int64 // at least
	}{
		"a local user": {
			func(f *federated) sender { return sender{origin: f.opts.DB.IDHash("@mallory:test")} },
			func(f *federated, from ident.Requester, i int, device string) error {
				return f.SendToDevice(f.t.Context(), from, "/x", fmt.Sprint(i, device), "m.test", messages{"@alice:test": {"*": json.RawMessage(`{"body":"` + big + `"}`)}})
			},
			bound * 3 / 4,
		},
		"an application service with many users": {
			func(f *federated) sender { return sender{origin: f.opts.DB.IDHash("application service bridge")} },
			func(f *federated, from ident.Requester, i int, device string) error {
				from.UserID, from.AppService = id.UserID(fmt.Sprintf("@bridge_%d:test", i)), "bridge"
				return f.SendToDevice(f.t.Context(), from, "/x", fmt.Sprint(i, device), "m.test", messages{"@alice:test": {"*": json.RawMessage(`{"body":"` + big + `"}`)}})
			},
			bound * 3 / 4,
		},
		"another server in the room": {
			func(f *federated) sender { return sender{origin: f.opts.DB.IDHash(away)} },
			func(f *federated, _ ident.Requester, i int, device string) error {
				return f.ReceiveDirectToDevice(f.t.Context(), away, fmt.Appendf(nil, `{"sender":%q,"type":"m.test","message_id":"%d%s","messages":{"@alice:test":{%q:{"body":%q}}}}`, far, i, device, device, big))
			},
			bound * 3 / 4,
		},
		"another server in no room": {
			func(f *federated) sender { return sender{origin: f.opts.DB.IDHash("evil"), stranger: true} },
			func(f *federated, _ ident.Requester, i int, device string) error {
				return f.ReceiveDirectToDevice(f.t.Context(), "evil", fmt.Appendf(nil, `{"sender":"@u%d:evil","type":"m.test","message_id":"%d%s","messages":{"@alice:test":{%q:{"body":%q}}}}`, i, i, device, device, big))
			},
			bound * 3 / 4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFederated(t)
			f.sums.user, f.sums.appservice, f.sums.server, f.sums.strangers = bound, bound, bound, bound
			mallory, carol := f.device("mallory", "M"), f.device("carol", "C")
			var queues []ident.DeviceNID
			for i := range devices {
				queues = append(queues, f.device("alice", fmt.Sprint("A", i)).DeviceNID)
			}
			for _, user := range []string{"@alice:test", string(far), "@third:third"} {
				f.membership(id.UserID(user), 1, "join")
			}
			if err := f.SendToDevice(t.Context(), carol, "/x", "1", "m.test", messages{"@alice:test": {"*": json.RawMessage(`{"body":"key of carol"}`)}}); err != nil {
				t.Fatal(err)
			}
			f.messageID++
			if err := f.ReceiveDirectToDevice(t.Context(), "third", json.RawMessage(`{"sender":"@third:third","type":"m.test","message_id":"1","messages":{"@alice:test":{"*":{"body":"key of third"}}}}`)); err != nil {
				t.Fatal(err)
			}
			for i := range 12 {
				for d := range devices {
					if err := c.flood(f, mallory, i, fmt.Sprint("A", d)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if cost, _ := f.waitingFrom(c.of(f)); cost > bound+bound/sumSteps+devices*12_000 || cost < c.kept {
				t.Errorf("%d bytes of the flood are kept", cost)
			}
			for _, device := range queues {
				if kept, _ := f.waiting(device, "key of carol", "key of third"); len(kept) != 2 {
					t.Fatalf("a device has only %q", kept)
				}
			}
		})
	}
}

func TestAnApplicationServiceMaySendMoreThanAUser(t *testing.T) {
	f := newFederated(t)
	f.sums.user = 100 << 10
	bridge := f.device("bridge", "B")
	bridge.AppService = "irc"
	f.device("alice", "A")
	for i := range 200 {
		if err := f.SendToDevice(t.Context(), bridge, "/x", fmt.Sprint(i), "m.test", messages{"@alice:test": {"A": json.RawMessage(`{"body":"key"}`)}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, n := f.waitingFrom(sender{origin: f.opts.DB.IDHash("application service irc")}); n != 200 {
		t.Errorf("%d messages are left", n)
	}
}

// A room key for 10,000 devices, ten times in a row without any of them receiving it, is within the bounds.
func TestARoomKeyForManyDevicesIsWithinTheBoundOfASender(t *testing.T) {
	var all []storage.ToDeviceSum
	for i := range 10_000 {
		all = append(all, storage.ToDeviceSum{Sender: 1, Device: ident.DeviceNID(i + 1), Messages: 10, Size: 10 * 1500})
	}
	if drop, _ := excesses(all, maxUserBacklog); len(drop) != 0 {
		t.Errorf("messages for %d devices are dropped", len(drop))
	}
}

// A sender with one message in each of many queues loses as many messages as exceed the bound, and not all of them.
func TestOnlyWhatExceedsTheBoundIsDropped(t *testing.T) {
	f := newFederated(t)
	f.sums.user = 100 << 10
	mallory := f.device("mallory", "M")
	for i := range 120 {
		f.device("alice", fmt.Sprint("A", i))
	}
	if err := f.SendToDevice(t.Context(), mallory, "/x", "1", "m.test", messages{"@alice:test": {"*": json.RawMessage(`{"body":"key"}`)}}); err != nil {
		t.Fatal(err)
	}
	if cost, n := f.waitingFrom(sender{origin: f.opts.DB.IDHash("@mallory:test")}); cost > 100<<10 || n < 75 {
		t.Errorf("%d messages of %d bytes are left", n, cost)
	}
}

func TestExcessesAreThoseOfTheUsersAndDevicesWithTheMost(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		const bound = 1 << 24
		var all []storage.ToDeviceSum
		had := map[int64]int64{}
		for sender := range int64(r.IntN(6) + 1) {
			for device := range r.IntN(50) {
				all = append(all, storage.ToDeviceSum{Sender: sender, Device: ident.DeviceNID(device), Messages: r.Int64N(300) + 1, Size: r.Int64N(2 << 20)})
				had[sender] += costOfSum(all[len(all)-1])
			}
		}
		total := int64(0)
		for _, cost := range had {
			total += cost
		}
		left := map[int64]int64{}
		for sender, cost := range had {
			left[sender] = cost
		}
		list, excess := excesses(all, bound)
		before := total
		for _, x := range list {
			if x.excess <= 0 || x.excess > costOfSum(x.ToDeviceSum) {
				t.Fatalf("%d of %d bytes are dropped", x.excess, costOfSum(x.ToDeviceSum))
			}
			left[x.Sender] -= x.excess
			total -= x.excess
		}
		if total > bound || before-total < excess {
			t.Fatalf("%d bytes are kept of %d, to drop %d", total, before, excess)
		}
		for cut := range had {
			for other := range had {
				if left[cut] < had[cut] && left[other] > left[cut]+64 {
					t.Fatalf("sender %d was cut to %d, and %d keeps %d", cut, left[cut], other, left[other])
				}
			}
		}
	}
}
