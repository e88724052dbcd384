package pushrules

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// found returns the users whose names an index finds in a text.
func found(n *Names, text string) []ident.UserNID {
	got := map[ident.UserNID]bool{}
	n.In(strings.ToLower(text), func(nid ident.UserNID, _ id.UserID) { got[nid] = true })
	return slices.Sorted(maps.Keys(got))
}

func TestNamesAgreesWithTryingEveryName(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 8))
	piece := func(n int) (s string) {
		for range 1 + rng.IntN(n) {
			s += []string{"a", "B", "ab", " ", " ", ".", "ü", "(", "_", "7", "@", "\xff"}[rng.IntN(12)]
		}
		return s
	}
	hits := 0
	for range 300 {
		n, names := NewNames(), map[ident.UserNID]string{}
		for nid := range ident.UserNID(20) {
			names[nid] = piece(4)
			n.Set(nid, "", piece(4)) // replaces a former name
			n.Set(nid, "", names[nid])
		}
		n.Set(99, "", "gone")
		n.Drop(99)
		text := piece(20) + " gone"
		want := []ident.UserNID{}
		for nid := range ident.UserNID(20) {
			if containsWord(strings.ToLower(text), strings.ToLower(names[nid])) {
				want = append(want, nid)
			}
		}
		if got := found(n, text); !slices.Equal(got, want) {
			t.Fatalf("in %q of %v: %v, want %v", text, names, got, want)
		}
		hits += len(want)
	}
	if hits < 300 {
		t.Errorf("only %d names were found: too few to tell", hits)
	}
}

func TestLongAndEmptyNamesAreNotIndexed(t *testing.T) {
	n := NewNames()
	for nid, name := range []string{"", strings.Repeat("x", maxPattern), strings.Repeat("y", maxPattern+1)} {
		n.Set(ident.UserNID(nid), "", name)
		if got, want := n.Size(), int64(min(nid, 1)*nameSize); got != want {
			t.Errorf("size %d after a name of %d bytes, want %d", got, len(name), want)
		}
		if got := len(found(n, name)) == 1; got != (len(name) == maxPattern) {
			t.Errorf("a name of %d bytes is found: %v", len(name), got)
		}
	}
	if size := (*Names)(nil).Size(); size != 0 {
		t.Errorf("no index has the size %d", size)
	}
}

func TestNameComparisonsAreBounded(t *testing.T) {
	n := NewNames()
	n.Set(1, "", "user z")
	for tries, want := range map[int]int{maxNameTries: 1, maxNameTries + 1: 0} {
		if got := found(n, strings.Repeat("user ", tries-1)+"user z"); len(got) != want {
			t.Errorf("after %d comparisons: %v", tries, got)
		}
	}
}

func TestNamesInATextAreBounded(t *testing.T) {
	d := newDesk(t)
	var body strings.Builder
	for i := range maxNamed + 1 {
		user := id.UserID(fmt.Sprintf("@u%d:here", i))
		d.room.members[user], d.room.names[user] = ident.UserNID(1_000_000+i), fmt.Sprint("name", i)
		fmt.Fprint(&body, "name", i, " ")
	}
	out := d.rules.Evaluate(event(t, `{"content":{"body":"`+body.String()+`"}}`), d.room)
	if len(out.Users) != maxNamed {
		t.Errorf("%d users are notified", len(out.Users))
	}
}

func TestManyPeopleWithTheSameNameTakeBoundedTime(t *testing.T) {
	n := NewNames()
	for nid := range ident.UserNID(5000) {
		n.Set(nid, "", fmt.Sprint("user number ", nid))
	}
	tries := 0
	n.In("user number 17 "+strings.Repeat("user ", 10_000), func(ident.UserNID, id.UserID) { tries++ })
	if tries != 1 {
		t.Errorf("%d found, want one", tries)
	}
	if allocated := testing.AllocsPerRun(1, func() { found(nil, "x") }); allocated > 10 {
		t.Errorf("no index takes %v allocations", allocated)
	}
}

func BenchmarkNames(b *testing.B) {
	n := NewNames()
	for nid := range ident.UserNID(10_000) {
		n.Set(nid, "", fmt.Sprintf("Name%d Surname%d", nid, nid%100))
	}
	text := "name17 surname17: this is what somebody writes to somebody else in a message of an ordinary length."
	b.ReportAllocs()
	for b.Loop() {
		n.In(text, func(ident.UserNID, id.UserID) {})
	}
}

func TestLegacyMentionRulesActOnlyOnEventsWithoutMentions(t *testing.T) {
	d := newDesk(t)
	d.room.names[bobID], d.room.mayRoom = "Bob (Ü)", true
	const loud = Notify | Highlight
	bob, carol := d.room.members[bobID], d.room.members[carolID]
	for _, tc := range []struct {
		content    string
		bob, carol Class
	}{
		{`{"msgtype":"m.text","body":"tea for BOB (ü)!"}`, loud, Notify},
		{`{"msgtype":"m.text","body":"tea for bob (ü)!","m.mentions":{}}`, Notify, Notify},
		{`{"msgtype":"m.text","body":"tea for bob (ü)!","m.mentions":{"user_ids":["@carol:here"]}}`, Notify, loud},
		{`{"msgtype":"m.text","body":"tea for bobby (ü)"}`, Notify, Notify},
		{`{"msgtype":"m.notice","body":"tea for bob (ü)"}`, 0, 0},
		{`{"msgtype":"m.text","body":"tea for @room."}`, loud, loud},
		{`{"msgtype":"m.text","body":"tea for @rooms"}`, Notify, Notify},
		{`{"msgtype":"m.text","body":"tea for @room","m.mentions":{}}`, Notify, Notify},
		{`{"msgtype":"m.text","body":"tea for carol"}`, Notify, loud},
		{`{"msgtype":"m.text","body":"tea for carol","m.mentions":{}}`, Notify, Notify},
		{`{"msgtype":"m.text","body":5}`, Notify, Notify},
	} {
		out := d.rules.Evaluate(event(t, `{"content":`+tc.content+`}`), d.room)
		if out.For(bob) != tc.bob || out.For(carol) != tc.carol {
			t.Errorf("%s: bob %d, carol %d", tc.content, out.For(bob), out.For(carol))
		}
	}
	d.room.mayRoom = false
	if got := d.class(`{"content":{"body":"@room"}}`); got != Notify {
		t.Errorf("@room without the power to: %d", got)
	}
	d.room.names[bobID] = "Robert"
	if got := d.class(`{"content":{"body":"robert"}}`); got != loud {
		t.Errorf("a display name other than the localpart: %d", got)
	}
	d.ok(d.rules.SetEnabled(t.Context(), bob, bobID, Override, displayNameRule, false))
	if got := d.class(`{"content":{"body":"robert"}}`); got != Notify {
		t.Errorf("without the rule for the display name: %d", got)
	}
	d.room.names[bobID] = "Bob (Ü)"
	if got := d.class(`{"content":{"body":"bob (ü)"}}`); got != loud { // bob is also the localpart
		t.Errorf("without the rule for the display name: %d", got)
	}
	d.ok(d.rules.SetActions(t.Context(), bob, bobID, Content, userNameRule, raws(notify)))
	if got := d.class(`{"content":{"body":"bob (ü)"}}`); got != Notify {
		t.Errorf("with a quiet rule for the localpart: %d", got)
	}
}

func TestLegacyMentionRulesAreServedUnlessDisabled(t *testing.T) {
	d := newDesk(t)
	d.room.names[bobID], d.room.mayRoom = "Bob (Ü)", true
	bob := d.room.members[bobID]
	listed := func() (ids []string) {
		set, err := d.rules.Rules(t.Context(), bob, bobID)
		d.ok(err)
		for _, r := range append(set.Override, set.Content...) {
			ids = append(ids, strings.TrimPrefix(r.ID, ".m.rule."))
		}
		return ids
	}
	with := []string{
		"master", "suppress_notices", "invite_for_me", "member_event", "is_user_mention", "contains_display_name", "is_room_mention", "roomnotif",
		"tombstone", "reaction", "room.server_acl", "suppress_edits", pollRule + "response", "contains_user_name",
	}
	if got := listed(); !slices.Equal(got, with) {
		t.Errorf("%v, want %v", got, with)
	}
	d.legacy = false
	d.reopen()
	without := slices.DeleteFunc(with, func(ruleID string) bool {
		return slices.Contains([]string{"contains_display_name", "roomnotif", "contains_user_name"}, ruleID)
	})
	if got := listed(); !slices.Equal(got, without) {
		t.Errorf("switched off: %v, want %v", got, without)
	}
	for _, body := range []string{"bob", "bob (ü)", "@room"} {
		if got := d.class(`{"content":{"body":"` + body + `"}}`); got != Notify {
			t.Errorf("switched off, %s: %d", body, got)
		}
	}
	if err := d.rules.SetEnabled(t.Context(), bob, bobID, Override, displayNameRule, false); err == nil {
		t.Error("a rule that is not there can be switched")
	}
}
