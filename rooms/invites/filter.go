package invites

import (
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/pushrules"
	"ebb/storage"
)

// The types of account data that say which invites a user accepts.
const (
	typePermission         = "m.invite_permission_config"
	typePermissionUnstable = "org.matrix.msc4380.invite_permission_config"
	typeFilter             = "org.matrix.msc4155.invite_permission_config"
)

var configs = []string{typePermission, typePermissionUnstable, typeFilter}

// maxCached bounds the filters in memory, in bytes; most users have none.
const maxCached = 8 << 20

// maxGlobs bounds the patterns of each list in a filter; the rest is ignored.
const maxGlobs = 5000

// verdict says how an invite is treated.
type verdict int

const (
	allow  verdict = iota
	ignore         // the inviter gets no error, and the user does not see the invite
	block          // the inviter gets M_INVITE_BLOCKED
)

// filter decides which invites a user wants. A nil filter allows all of them.
// Spec: client-server-api#invite-permission, MSC4155
type filter struct {
	blockAll bool
	rules    []list // the first one that matches decides
	size     int64  // of the rules, roughly
}

// sizeOf estimates the memory that a cached filter takes.
func sizeOf(_ ident.UserNID, f *filter) int64 {
	if f == nil {
		return 100
	}
	return 200 + f.size
}

// list is one of the lists of MSC4155, with the verdict on inviters that match it.
type list struct {
	servers bool // it lists servers and not users
	globs   []pushrules.Glob
	verdict verdict
}

// lists are the lists of MSC4155 in the order in which they apply.
var lists = []struct {
	key     string
	servers bool
	verdict verdict
}{
	{"allowed_users", false, allow}, {"ignored_users", false, ignore}, {"blocked_users", false, block},
	{"allowed_servers", true, allow}, {"ignored_servers", true, ignore}, {"blocked_servers", true, block},
}

// add reads the account data of one type into the filter. The lists of MSC4155 have no effect if
// one of them is not an array of strings.
func (f *filter) add(typ, content string) {
	raw := []byte(content)
	if action, ok := canonjson.Get(raw, "default_action"); ok && canonjson.String(action) == "block" {
		f.blockAll = true
	}
	if typ != typeFilter {
		return
	}
	if enabled, ok := canonjson.Get(raw, "enabled"); ok && string(enabled) == "false" {
		return
	}
	var rules []list
	var size int64
	for _, l := range lists {
		value, ok := canonjson.Get(raw, l.key)
		if !ok {
			continue
		}
		var patterns []*string
		if json.Unmarshal(value, &patterns) != nil || patterns == nil || slices.Contains(patterns, nil) {
			return
		}
		parsed := list{servers: l.servers, verdict: l.verdict}
		for _, pattern := range patterns[:min(len(patterns), maxGlobs)] {
			glob := pushrules.CompileGlob(*pattern)
			parsed.globs, size = append(parsed.globs, glob), size+glob.Size()
		}
		rules = append(rules, parsed)
	}
	f.rules, f.size = rules, size
}

// decide returns the verdict on an invite by the given user.
func (f *filter) decide(inviter id.UserID) verdict {
	if f == nil {
		return allow
	}
	if f.blockAll {
		return block
	}
	server := ident.HostOf(ident.ServerOf(inviter)) // patterns have no ports
	for _, l := range f.rules {
		text := string(inviter)
		if l.servers {
			text = server
		}
		if slices.ContainsFunc(l.globs, func(g pushrules.Glob) bool { return g.Match(text) }) {
			return l.verdict
		}
	}
	return allow
}

// filterOf returns the filter of a local user, nil if all invites are allowed.
func (p *Policy) filterOf(ctx context.Context, user ident.UserNID) (*filter, error) {
	return p.filters.Get(ctx, user, func(ctx context.Context) (*filter, error) {
		var f filter
		err := p.db.ReadInner(ctx, func(tx *storage.Tx) error {
			for _, typ := range configs {
				content, found, err := tx.AccountData(user, 0, typ)
				if err != nil {
					return err
				}
				if found {
					f.add(typ, content)
				}
			}
			return nil
		})
		if err != nil || !f.blockAll && len(f.rules) == 0 {
			return nil, err
		}
		return &f, nil
	})
}
