package storage_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// TestStatesReadTogetherAreAsEachAlone compares StateKeysOf with StateKeyOf, and VisibilityStates with both, on states
// that
// branch.
func TestStatesReadTogetherAreAsEachAlone(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		random := rand.New(rand.NewPCG(1, 2))
		var wanted []storage.StateKey
		err := db.Write(t.Context(), func(tx *storage.Tx) error {
			var err error
			wanted, err = growStates(tx, random)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Read(t.Context(), func(tx *storage.Tx) error {
			together, err := tx.StateKeysOf(wanted)
			if err != nil {
				return err
			}
			var snapshots []int64
			for _, w := range wanted {
				alone, err := tx.StateKeyOf(w.Snapshot, w.Type, w.Key)
				if err != nil {
					return err
				}
				if got, found := together[w]; got != alone || found != (alone != 0) {
					t.Fatalf("%+v is %d, %v together with others, %d alone", w, got, found, alone)
				}
				snapshots = append(snapshots, w.Snapshot)
			}
			sights, err := tx.VisibilityStates(snapshots, "@3:here")
			for _, nid := range snapshots {
				history, _ := tx.StateKeyOf(nid, "m.room.history_visibility", "")
				member, _ := tx.StateKeyOf(nid, "m.room.member", "@3:here")
				if sights[nid] != (storage.VisibilityState{HistoryVisibility: history, Member: member}) {
					t.Fatalf("the sight of %d is %+v, want %d and %d", nid, sights[nid], history, member)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// growStates creates chains of snapshots that fork, and returns entries of them to look up.
func growStates(tx *storage.Tx, random *rand.Rand) (wanted []storage.StateKey, err error) {
	type state struct{ nid, length int64 }
	var all []state
	entry := func() (typ, key string) {
		if random.IntN(5) == 0 {
			return "m.room.history_visibility", ""
		}
		return "m.room.member", fmt.Sprintf("@%d:here", random.IntN(12))
	}
	for range 300 {
		s := state{nid: int64(tx.NextPos())}
		prev := int64(0)
		if len(all) > 0 && random.IntN(20) > 0 {
			below := all[max(0, len(all)-1-random.IntN(4))]
			prev, s.length = below.nid, below.length+1
		}
		if err := tx.InsertSnapshot(s.nid, 1, prev, s.length); err != nil {
			return nil, err
		}
		seen := map[string]bool{}
		for range 1 + random.IntN(3) {
			typ, key := entry()
			if seen[typ+key] {
				continue
			}
			seen[typ+key] = true
			pos := tx.NextPos()
			if prev != 0 && random.IntN(6) == 0 {
				pos = 0 // absent from this snapshot on
			}
			if err := tx.InsertStateDelta(s.nid, typ, key, pos); err != nil {
				return nil, err
			}
		}
		all = append(all, s)
		for range 4 {
			typ, key := entry()
			wanted = append(wanted, storage.StateKey{Snapshot: all[random.IntN(len(all))].nid, Type: typ, Key: key})
		}
	}
	return wanted, nil
}
