// Package pushrules manages push rules, the default ones and each user's own, and evaluates events against them. It
// does not count unread events and does not notify push gateways.
//
// A user's rule set is stored as its difference from the defaults (own rules, changed actions, disabled defaults), so
// that new default rules reach existing users. Rule sets are compiled once and kept in memory.
package pushrules

import (
	"encoding/json"
	"slices"
	"strings"

	"ebb/mxerr"
)

// Kind is the kind of a push rule. A rule set has one list for each kind.
type Kind string

// These are the kinds of rules, in the order in which they are checked.
const (
	Override    Kind = "override"
	Content     Kind = "content"
	PostContent Kind = "postcontent" // MSC4306; only server-default rules
	Room        Kind = "room"
	Sender      Kind = "sender"
	Underride   Kind = "underride"
)

var kinds = [...]Kind{Override, Content, PostContent, Room, Sender, Underride}

// Valid reports whether k is one of the kinds.
func (k Kind) Valid() bool { return slices.Contains(kinds[:], k) }

// Rule is a push rule in the form that clients see.
type Rule struct {
	ID         string            `json:"rule_id"`
	Default    bool              `json:"default"`
	Enabled    bool              `json:"enabled"`
	Actions    []json.RawMessage `json:"actions"`
	Conditions []json.RawMessage `json:"conditions,omitempty"`
	Pattern    string            `json:"pattern,omitempty"`
}

// MarshalJSON encodes the rule. It omits a nil list of conditions, since some kinds have no conditions, but keeps an
// empty one.
func (r Rule) MarshalJSON() ([]byte, error) {
	type plain Rule
	out := struct {
		plain
		Conditions *[]json.RawMessage `json:"conditions,omitempty"`
	}{plain: plain(r)}
	if r.Conditions != nil {
		out.Conditions = &r.Conditions
	}
	if r.Actions == nil {
		out.Actions = []json.RawMessage{}
	}
	return json.Marshal(out)
}

// Ruleset holds the rules of each kind in order of priority.
type Ruleset struct {
	Override    []Rule `json:"override"`
	Content     []Rule `json:"content"`
	PostContent []Rule `json:"postcontent,omitempty"` // empty in the stored form of a user's own rules
	Room        []Rule `json:"room"`
	Sender      []Rule `json:"sender"`
	Underride   []Rule `json:"underride"`
}

// List returns the rules of a kind, for reading or changing.
func (s *Ruleset) List(k Kind) *[]Rule {
	switch k {
	case Override:
		return &s.Override
	case Content:
		return &s.Content
	case PostContent:
		return &s.PostContent
	case Room:
		return &s.Room
	case Sender:
		return &s.Sender
	default:
		return &s.Underride
	}
}

// Find returns the rule of a kind with the given ID.
func (s *Ruleset) Find(k Kind, ruleID string) (*Rule, bool) {
	list := *s.List(k)
	i := indexRule(list, ruleID)
	if i < 0 {
		return nil, false
	}
	return &list[i], true
}

func indexRule(list []Rule, ruleID string) int {
	return slices.IndexFunc(list, func(r Rule) bool { return r.ID == ruleID })
}

// stored is the stored form of a user's rules: the user's own rules, and the changes to default rules.
type stored struct {
	Own     Ruleset            `json:"own"`
	Changed map[string]changed `json:"changed,omitempty"` // by the ID of the default rule
	// Threads reports whether the user has subscribed to a thread. Threads without a subscription then do not notify
	// the user.
	Threads bool `json:"threads,omitempty"`
}

type changed struct {
	Enabled *bool              `json:"enabled,omitempty"`
	Actions *[]json.RawMessage `json:"actions,omitempty"`
}

// isDefault reports whether the user has exactly the default rules.
func (s *stored) isDefault() bool {
	for _, k := range kinds {
		if len(*s.Own.List(k)) > 0 {
			return false
		}
	}
	return len(s.Changed) == 0 && !s.Threads
}

// asksThreads reports whether the rules about threads can affect the user.
func (s *stored) asksThreads() bool {
	_, on := s.Changed[unsubscribedThreadRule]
	return s.Threads || on
}

// full returns the complete rule set. In each kind the user's own rules come before the defaults, except that the
// master rule comes first of all.
func (s *stored) full(user string, d Defaults) *Ruleset {
	defaults := defaultRules(user, d)
	out := &Ruleset{}
	for _, k := range kinds {
		list := []Rule{}
		rest := *defaults.List(k)
		if k == Override {
			list, rest = append(list, rest[0]), rest[1:]
		}
		list = append(list, *s.Own.List(k)...)
		list = append(list, rest...)
		for i := range list {
			s.apply(&list[i])
		}
		*out.List(k) = list
	}
	return out
}

// apply applies the user's changes to a default rule. It leaves the user's own rules alone, because their IDs differ
// from those of default rules.
func (s *stored) apply(r *Rule) {
	if r.ID == unsubscribedThreadRule {
		r.Enabled = s.Threads
	}
	c := s.Changed[r.ID]
	if c.Enabled != nil {
		r.Enabled = *c.Enabled
	}
	if c.Actions != nil {
		r.Actions = *c.Actions
	}
}

// These constants bound a user's own rules; docs/limits.md lists them.
const (
	maxRules    = 1000
	maxRuleJSON = 16 << 10 // bytes of one rule
	maxRuleID   = 255      // bytes
)

// put adds or replaces one of the user's own rules. If before or after is given, it places the rule next to that rule.
// Otherwise it places a new rule first, and a replaced one where it was.
func (s *stored) put(k Kind, r Rule, before, after string) error {
	list := s.Own.List(k)
	if i := indexRule(*list, r.ID); i >= 0 {
		r.Enabled = (*list)[i].Enabled
		if before == "" && after == "" {
			(*list)[i] = r
			return nil
		}
		*list = slices.Delete(*list, i, i+1)
	}
	if s.count() >= maxRules {
		return mxerr.TooLarge("You already have %d push rules, which is the maximum; delete one first", maxRules)
	}
	at, err := insertIndex(*list, before, after)
	if err != nil {
		return err
	}
	*list = slices.Insert(*list, at, r)
	return nil
}

func (s *stored) count() (n int) {
	for _, k := range kinds {
		n += len(*s.Own.List(k))
	}
	return n
}

// insertIndex returns where to insert a rule that is to come before or after another one. before takes precedence; if
// neither is given, the rule comes first.
func insertIndex(list []Rule, before, after string) (int, error) {
	if before == "" && after == "" {
		return 0, nil
	}
	name, offset := after, 1
	if before != "" {
		name, offset = before, 0
	}
	i := indexRule(list, name)
	if i < 0 {
		if strings.HasPrefix(name, ".") {
			return 0, mxerr.InvalidParam("A rule cannot be placed before or after a server-default rule")
		}
		return 0, mxerr.New(400, mxerr.CodeUnknown, "There is no rule %q to place this one before or after", name)
	}
	return i + offset, nil
}
