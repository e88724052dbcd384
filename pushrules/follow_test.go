package pushrules

import (
	"encoding/json"
	"slices"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

func TestRulesForARoomFollowItsUpgrade(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		const user, old, successor = "@alice:here", "!old:here", "!new:here"
		var nid ident.UserNID
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		ok(db.Write(t.Context(), func(tx *storage.Tx) (err error) {
			nid, err = tx.UserNID(user)
			return err
		}))
		rules, err := New(t.Context(), db, wake.New(), "here", Defaults{Legacy: true})
		ok(err)
		muted := []json.RawMessage{json.RawMessage(`{"kind":"event_match","key":"room_id","pattern":"!old:here"}`)}
		loud := []json.RawMessage{json.RawMessage(`"notify"`)}
		ok(rules.Put(t.Context(), nid, user, Override, old, NewRule{Actions: []json.RawMessage{}, Conditions: muted}))
		ok(rules.Put(t.Context(), nid, user, Room, old, NewRule{Actions: loud}))
		ok(rules.Put(t.Context(), nid, user, Room, "!other:here", NewRule{Actions: loud}))
		ids := func(list []Rule) (own []string) {
			for _, r := range list {
				if !r.Default {
					own = append(own, r.ID)
				}
			}
			slices.Sort(own)
			return own
		}
		var set *Ruleset
		for range 2 { // joining again must not copy a rule twice
			ok(rules.Follow(t.Context(), nid, user, old, successor))
			set, err = rules.Rules(t.Context(), nid, user)
			ok(err)
			if got := ids(set.Override); !slices.Equal(got, []string{successor, old}) {
				t.Fatalf("override rules: %v", got)
			}
			if got := ids(set.Room); !slices.Equal(got, []string{successor, old, "!other:here"}) {
				t.Fatalf("room rules: %v", got)
			}
		}
		mute, _ := set.Find(Override, successor)
		if got := string(mute.Conditions[0]); got != `{"kind":"event_match","key":"room_id","pattern":"!new:here"}` {
			t.Fatalf("the copied rule is for %s", got)
		}
		ok(rules.Follow(t.Context(), nid, user, "!unknown:here", "!else:here"))
		// The rules have no override rule for this room.
		ok(rules.Follow(t.Context(), nid, user, "!other:here", "!another:here"))
		set, err = rules.Rules(t.Context(), nid, user)
		ok(err)
		if _, copied := set.Find(Room, "!another:here"); !copied {
			t.Error("a room rule is copied only with an override rule")
		}
	})
}

func TestOnlyConditionsOnTheOldRoomAreMoved(t *testing.T) {
	rule := Rule{ID: "!old:here", Conditions: raws(match("room_id", `"!old:here"`), match("room_id", `"!other:here"`), match("sender", `"!old:here"`),
		`{"kind":"event_match","key":"room_id","pattern":5}`, `{"kind":"event_match","key":"room_id"}`)}
	want := slices.Clone(rule.Conditions)
	want[0] = json.RawMessage(match("room_id", `"!new:here"`))
	moved := rule.movedTo("!old:here", "!new:here")
	if !slices.EqualFunc(moved.Conditions, want, func(a, b json.RawMessage) bool { return string(a) == string(b) }) || moved.ID != "!new:here" {
		t.Errorf("%s %s", moved.ID, moved.Conditions)
	}
	if string(rule.Conditions[0]) != match("room_id", `"!old:here"`) {
		t.Error("the rule for the old room has changed")
	}
}
