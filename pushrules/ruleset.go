// Package pushrules holds the push rules: the default ones, each user's own, and what they say of an event. Counting unread
// events is the business of rooms and feed; sending notifications to push gateways that of the pushers.
//
// A rule set is stored as the difference from the defaults (own rules, changed actions, switched-off defaults), so that
// new defaults of the specification reach everybody. It is compiled once and kept in memory.
package pushrules

import (
	"encoding/json"
	"slices"

	"ebb/mxerr"
)

// Kind is one of the five lists of a rule set.
type Kind string

// The kinds in the order in which they are checked.
const (
	Override  Kind = "override"
	Content   Kind = "content"
	Room      Kind = "room"
	Sender    Kind = "sender"
	Underride Kind = "underride"
)

var kinds = [...]Kind{Override, Content, Room, Sender, Underride}

// Valid says whether a kind is one of the five.
func (k Kind) Valid() bool { return slices.Contains(kinds[:], k) }

// Rule is one push rule, as clients see it.
type Rule struct {
	ID         string            `json:"rule_id"`
	Default    bool              `json:"default"`
	Enabled    bool              `json:"enabled"`
	Actions    []json.RawMessage `json:"actions"`
	Conditions []json.RawMessage `json:"conditions,omitempty"`
	Pattern    string            `json:"pattern,omitempty"`
}

// MarshalJSON writes conditions only where the kind has them: a nil list is left out, an empty one is not.
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

// Ruleset is the five lists, each in order of priority.
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// List gives the list of a kind, to read or change.
func (s *Ruleset) List(k Kind) *[]Rule {
	switch k {
	case Override:
		return &s.Override
	case Content:
		return &s.Content
	case Room:
		return &s.Room
	case Sender:
		return &s.Sender
	default:
		return &s.Underride
	}
}

// Find looks up a rule.
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

// stored is what the database keeps of a user's rules: own rules in full, and what differs in default ones.
type stored struct {
	Own     Ruleset            `json:"own"`
	Changed map[string]changed `json:"changed,omitempty"` // default rules by id
}

type changed struct {
	Enabled *bool              `json:"enabled,omitempty"`
	Actions *[]json.RawMessage `json:"actions,omitempty"`
}

// isDefault says that the user changed nothing.
func (s *stored) isDefault() bool {
	for _, k := range kinds {
		if len(*s.Own.List(k)) > 0 {
			return false
		}
	}
	return len(s.Changed) == 0
}

// full puts own and default rules together: the master rule, then own rules, then the defaults.
func (s *stored) full(user string, legacy bool) *Ruleset {
	defaults := defaultRules(user, legacy)
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

func (s *stored) apply(r *Rule) {
	c, ok := s.Changed[r.ID]
	if !r.Default || !ok {
		return
	}
	if c.Enabled != nil {
		r.Enabled = *c.Enabled
	}
	if c.Actions != nil {
		r.Actions = *c.Actions
	}
}

// Bounds of a user's own rules; docs/limits.md lists them.
const (
	maxRules    = 1000
	maxRuleJSON = 16 << 10 // bytes of one rule
	maxRuleID   = 255      // bytes
)

// put adds or replaces one of the user's own rules, before or after another of them, or at the front.
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
		return mxerr.TooLarge("You have %d push rules already", maxRules)
	}
	at, err := place(*list, before, after)
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

// place finds the index for a rule; before wins where both are given.
func place(list []Rule, before, after string) (int, error) {
	if before == "" && after == "" {
		return 0, nil
	}
	name, offset := after, 1
	if before != "" {
		name, offset = before, 0
	}
	i := indexRule(list, name)
	if i < 0 {
		if len(name) > 0 && name[0] == '.' {
			return 0, mxerr.InvalidParam("A rule cannot be placed next to a server-default rule")
		}
		return 0, mxerr.New(400, "M_UNKNOWN", "There is no rule %q to place this one next to", name)
	}
	return i + offset, nil
}
