package pushrules

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/storage"
)

func (d *desk) refused(err error, code string) {
	d.Helper()
	if mxerr.Code(err) != code {
		d.Errorf("got %v, want %s", err, code)
	}
}

// list returns the IDs of bob's rules of a kind. It leaves out the defaults except for the master rule.
func (d *desk) list(k Kind) []string {
	d.Helper()
	set, err := d.rules.Rules(d.Context(), d.room.members[bobID], bobID)
	d.ok(err)
	var out []string
	for i, r := range *set.List(k) {
		if r.Default != strings.HasPrefix(r.ID, ".") {
			d.Errorf("%s: default %v", r.ID, r.Default)
		}
		if !r.Default || i == 0 && r.ID == masterRule {
			out = append(out, r.ID)
		}
	}
	return out
}

func TestRulesArePlaced(t *testing.T) {
	d := newDesk(t)
	bob := d.room.members[bobID]
	for _, step := range []struct{ put, before, after, want string }{
		{"a", "", "", "a"},
		{"b", "", "", "b a"},
		{"c", "", "b", "b c a"},
		{"d", "a", "", "b c d a"},
		{"e", "b", "a", "e b c d a"}, // before takes precedence
		{"a", "", "", "e b c d a"},
		{"a", "e", "", "a e b c d"},
		{"a", "", "d", "e b c d a"},
		{"e", "", "d", "b c d e a"},
	} {
		d.put(bobID, Override, step.put, NewRule{Before: step.before, After: step.after})
		if got := strings.Join(d.list(Override), " "); got != masterRule+" "+step.want {
			t.Errorf("%+v: %s", step, got)
		}
	}
	before := d.list(Override)
	put := func(n NewRule) error {
		n.Actions = raws()
		return d.rules.Put(t.Context(), bob, bobID, Override, "a", n)
	}
	d.refused(put(NewRule{Before: ".m.rule.reaction"}), mxerr.CodeInvalidParam)
	d.refused(put(NewRule{After: masterRule}), mxerr.CodeInvalidParam)
	d.refused(put(NewRule{After: "none"}), mxerr.CodeUnknown)
	d.refused(put(NewRule{Before: "a"}), mxerr.CodeUnknown)
	if got := d.list(Override); !slices.Equal(got, before) {
		t.Errorf("a refused change left %v", got)
	}
	d.put(bobID, Underride, "a", NewRule{})
	if got := d.list(Underride); !slices.Equal(got, []string{"a"}) {
		t.Error(got)
	}
	d.ok(d.rules.Delete(t.Context(), bob, bobID, Override, "c"))
	d.reopen()
	if got := strings.Join(d.list(Override), " "); got != masterRule+" b d e a" {
		t.Error(got)
	}
}

func TestUpdatedRuleStaysDisabled(t *testing.T) {
	d := newDesk(t)
	bob := d.room.members[bobID]
	d.put(bobID, Override, "a", NewRule{})
	d.ok(d.rules.SetEnabled(t.Context(), bob, bobID, Override, "a", false))
	d.put(bobID, Override, "a", NewRule{Actions: raws(notify)})
	set, err := d.rules.Rules(t.Context(), bob, bobID)
	d.ok(err)
	if r, found := set.Find(Override, "a"); !found || r.Enabled || len(r.Actions) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestDefaultRulesAreChangedButNotReplaced(t *testing.T) {
	d := newDesk(t)
	ctx, bob := t.Context(), d.room.members[bobID]
	d.refused(d.rules.Delete(ctx, bob, bobID, Override, ".m.rule.reaction"), mxerr.CodeInvalidParam)
	d.refused(d.rules.Delete(ctx, bob, bobID, Override, "none"), mxerr.CodeNotFound)
	d.refused(d.rules.SetEnabled(ctx, bob, bobID, Underride, ".m.rule.reaction", true), mxerr.CodeNotFound)
	d.refused(d.rules.SetActions(ctx, bob, bobID, Override, "none", raws()), mxerr.CodeNotFound)
	d.refused(d.rules.SetActions(ctx, bob, bobID, Override, ".m.rule.reaction", nil), mxerr.CodeMissingParam)
	d.refused(d.rules.SetActions(ctx, bob, bobID, Override, ".m.rule.reaction", raws("5")), mxerr.CodeInvalidParam)
	d.refused(d.rules.Put(ctx, bob, bobID, Override, ".m.rule.reaction", NewRule{Actions: raws()}), mxerr.CodeInvalidParam)

	d.ok(d.rules.SetActions(ctx, bob, bobID, Override, ".m.rule.reaction", raws(notify)))
	d.ok(d.rules.SetEnabled(ctx, bob, bobID, Underride, ".m.rule.message", false))
	for range 2 {
		if got := d.class(`{"type":"m.reaction"}`); got != Notify {
			t.Errorf("reaction: %d", got)
		}
		if got := d.class(`{"content":{"body":"x"}}`); got != 0 {
			t.Errorf("message: %d", got)
		}
		set, err := d.rules.Rules(ctx, bob, bobID)
		d.ok(err)
		if r, _ := set.Find(Underride, ".m.rule.message"); r.Enabled || !r.Default || len(r.Actions) != 1 {
			t.Errorf("%+v", r)
		}
		d.reopen()
	}
}

func TestMalformedAndTooManyRulesAreRefused(t *testing.T) {
	d := newDesk(t)
	bob, long := d.room.members[bobID], strings.Repeat("x", maxPattern+1)
	fine := "x"
	for name, tc := range map[string]struct {
		kind Kind
		id   string
		rule NewRule
		code string
	}{
		"no actions":      {Override, "a", NewRule{}, mxerr.CodeMissingParam},
		"a bad action":    {Override, "a", NewRule{Actions: raws("[]")}, mxerr.CodeInvalidParam},
		"a bad condition": {Override, "a", NewRule{Actions: raws(), Conditions: raws("5")}, mxerr.CodeBadJSON},
		"no pattern":      {Content, "a", NewRule{Actions: raws()}, mxerr.CodeMissingParam},
		"a long pattern":  {Content, "a", NewRule{Actions: raws(), Pattern: &long}, mxerr.CodeInvalidParam},
		"an empty id":     {Content, "", NewRule{Actions: raws(), Pattern: &fine}, mxerr.CodeInvalidParam},
		"a long id":       {Content, long, NewRule{Actions: raws(), Pattern: &fine}, mxerr.CodeInvalidParam},
		"a slash":         {Content, "a/b", NewRule{Actions: raws(), Pattern: &fine}, mxerr.CodeInvalidParam},
		"a backslash":     {Content, `a\b`, NewRule{Actions: raws(), Pattern: &fine}, mxerr.CodeInvalidParam},
		"a big rule":      {Override, "a", NewRule{Actions: raws(`"` + strings.Repeat("x", maxRuleJSON) + `"`)}, mxerr.CodeTooLarge},
	} {
		if err := d.rules.Put(t.Context(), bob, bobID, tc.kind, tc.id, tc.rule); mxerr.Code(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	d.ok(d.db.Write(t.Context(), func(tx *storage.Tx) error {
		own := stored{}
		for i := range maxRules {
			own.Own.Room = append(own.Own.Room, Rule{ID: fmt.Sprint("!", i), Enabled: true, Actions: raws()})
		}
		raw, err := json.Marshal(own)
		if err != nil {
			return err
		}
		return tx.SetPushRules(bob, string(raw))
	}))
	d.refused(d.rules.Put(t.Context(), bob, bobID, Room, "!x", NewRule{Actions: raws()}), mxerr.CodeTooLarge)
	// There is no room for another rule, which is not an error.
	d.ok(d.rules.Follow(t.Context(), bob, bobID, "!7", "!successor"))
	d.put(bobID, Room, "!7", NewRule{Actions: raws(notify)})
}

func TestRulesOfMaximumSizeAreAccepted(t *testing.T) {
	d := newDesk(t)
	long, action := strings.Repeat("x", maxPattern), `""`
	d.put(bobID, Content, "pattern", NewRule{Actions: raws(), Pattern: &long})
	d.put(bobID, Override, strings.Repeat("i", maxRuleID), NewRule{Actions: raws()})
	raw, err := json.Marshal(Rule{ID: "big", Enabled: true, Actions: raws(action), Conditions: raws()})
	d.ok(err)
	action = `"` + strings.Repeat("x", maxRuleJSON-len(raw)) + `"`
	d.put(bobID, Override, "big", NewRule{Actions: raws(action), Conditions: raws()})
	action = action[:1] + "x" + action[1:]
	d.refused(d.rules.Put(t.Context(), d.room.members[bobID], bobID, Override, "big", NewRule{Actions: raws(action), Conditions: raws()}), mxerr.CodeTooLarge)
}

func TestChangedRulesAreReportedOnce(t *testing.T) {
	d := newDesk(t)
	bob := d.room.members[bobID]
	since := func(since storage.Pos) (content string, isNew bool, now storage.Pos) {
		t.Helper()
		d.ok(d.db.Read(t.Context(), func(tx *storage.Tx) error {
			raw, fresh, err := d.rules.RulesSince(tx, bob, since, tx.Settled())
			content, isNew, now = string(raw), fresh, tx.Settled()
			return err
		}))
		return content, isNew, now
	}
	content, isNew, now := since(0)
	if !isNew || !strings.Contains(content, `"global":{`) || !strings.Contains(content, `"pattern":"@bob:here"`) || strings.Contains(content, "reader") {
		t.Fatal(content)
	}
	var shape struct {
		Global map[string][]map[string]json.RawMessage `json:"global"`
	}
	d.ok(json.Unmarshal([]byte(content), &shape))
	for _, k := range kinds {
		if shape.Global[string(k)] == nil {
			t.Errorf("%s is missing", k)
		}
		for _, r := range shape.Global[string(k)] {
			if (r["conditions"] != nil) != (k == Override || k == PostContent || k == Underride) || (r["pattern"] != nil) != (k == Content) || r["actions"] == nil {
				t.Errorf("%s %s", k, r)
			}
		}
	}
	if _, isNew, _ = since(now); isNew {
		t.Error("news without a change")
	}
	d.put(bobID, Room, string(thisRoom), NewRule{})
	content, isNew, later := since(now)
	if !isNew || !strings.Contains(content, string(thisRoom)) {
		t.Error(content)
	}
	if _, isNew, _ = since(later); isNew {
		t.Error("news twice")
	}
	if err := d.rules.Put(t.Context(), d.room.members[carolID], carolID, Room, id.RoomID("!c:here").String(), NewRule{Actions: raws()}); err != nil {
		t.Fatal(err)
	}
	if _, isNew, _ = since(later); isNew {
		t.Error("news of another user")
	}
}
