package rooms

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/pushrules"
	"ebb/storage"
)

// The types of account data that say which invites a user accepts.
const (
	typeInvitePermission         = "m.invite_permission_config"
	typeInvitePermissionUnstable = "org.matrix.msc4380.invite_permission_config"
	typeInviteFilter             = "org.matrix.msc4155.invite_permission_config"
)

var inviteConfigs = []string{typeInvitePermission, typeInvitePermissionUnstable, typeInviteFilter}

// maxCachedFilters bounds the users whose filters are in memory; most have none.
const maxCachedFilters = 20_000

// maxInviteGlobs bounds the patterns of each list in a filter; the rest is ignored.
const maxInviteGlobs = 5000

// inviteVerdict is what happens to an invite.
type inviteVerdict int

const (
	allowInvite  inviteVerdict = iota
	ignoreInvite               // the inviter is not told, and the user does not see it
	blockInvite                // the inviter gets M_INVITE_BLOCKED
)

// inviteFilter decides about the invites to a user. Nil allows all.
// Spec: client-server-api#invite-permission, MSC4155
type inviteFilter struct {
	blockAll bool
	lists    []inviteList // the first one that matches decides
}

// inviteList is one list of a filter.
type inviteList struct {
	servers bool // it lists servers and not users
	globs   []pushrules.Glob
	verdict inviteVerdict
}

// inviteLists are the lists of MSC4155 in the order in which they are asked.
var inviteLists = []struct {
	key     string
	servers bool
	verdict inviteVerdict
}{
	{"allowed_users", false, allowInvite}, {"ignored_users", false, ignoreInvite}, {"blocked_users", false, blockInvite},
	{"allowed_servers", true, allowInvite}, {"ignored_servers", true, ignoreInvite}, {"blocked_servers", true, blockInvite},
}

// add adds the content of one type of account data. Malformed members count as missing.
func (f *inviteFilter) add(typ, content string) {
	raw := []byte(content)
	if action, ok := canonjson.Get(raw, "default_action"); ok && canonjson.String(action) == "block" {
		f.blockAll = true
	}
	if typ != typeInviteFilter {
		return
	}
	if enabled, ok := canonjson.Get(raw, "enabled"); ok && string(enabled) == "false" {
		return
	}
	for _, l := range inviteLists {
		value, _ := canonjson.Get(raw, l.key)
		entries, _ := canonjson.Elements(value)
		list := inviteList{servers: l.servers, verdict: l.verdict}
		for _, e := range entries[:min(len(entries), maxInviteGlobs)] {
			if pattern := canonjson.String(e); pattern != "" {
				list.globs = append(list.globs, pushrules.CompileGlob(strings.Clone(pattern)))
			}
		}
		if len(list.globs) > 0 {
			f.lists = append(f.lists, list)
		}
	}
}

// verdict decides about an invite by a user.
func (f *inviteFilter) verdict(inviter id.UserID) inviteVerdict {
	if f == nil {
		return allowInvite
	}
	if f.blockAll {
		return blockInvite
	}
	server, _, _ := strings.Cut(ident.ServerOf(inviter), ":") // the port is not part of what is matched
	for _, l := range f.lists {
		text := string(inviter)
		if l.servers {
			text = server
		}
		if slices.ContainsFunc(l.globs, func(g pushrules.Glob) bool { return g.Match(text) }) {
			return l.verdict
		}
	}
	return allowInvite
}

// filterCache caches the filters of local users.
type filterCache struct {
	filters *keyed.Memo[ident.UserNID, *inviteFilter]
}

func (c *filterCache) init(entries int) {
	c.filters = keyed.NewMemo(keyed.Options[ident.UserNID, *inviteFilter]{Entries: entries})
}

// committed is the Listener that drops filters that have changed.
func (c *filterCache) committed(commit *Commit) {
	for _, a := range commit.AccountData {
		if a.Room == 0 && slices.Contains(inviteConfigs, a.Type) {
			c.filters.Forget(a.User)
		}
	}
}

// inviteFilter returns the filter of a local user, nil if all invites are allowed.
func (s *Service) inviteFilter(ctx context.Context, user ident.UserNID) (*inviteFilter, error) {
	return s.filters.filters.Get(ctx, user, func(ctx context.Context) (*inviteFilter, error) {
		var f inviteFilter
		err := s.db.ReadInner(ctx, func(tx *storage.Tx) error {
			for _, typ := range inviteConfigs {
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
		if err != nil || !f.blockAll && len(f.lists) == 0 {
			return nil, err
		}
		return &f, nil
	})
}

// HidesInvite reports whether a local user does not want to see the invites of another user, as blocked or ignored.
func (s *Service) HidesInvite(ctx context.Context, user ident.UserNID, inviter id.UserID) (bool, error) {
	f, err := s.inviteFilter(ctx, user)
	return f.verdict(inviter) != allowInvite, err
}

// mayBeInvited returns an error if a local user blocks the inviter, or has too many invites in total or from the
// inviter.
// Spec: client-server-api#invite-permission
func (s *Service) mayBeInvited(ctx context.Context, user ident.UserNID, inviter id.UserID) error {
	f, err := s.inviteFilter(ctx, user)
	if err != nil {
		return err
	}
	if f.verdict(inviter) == blockInvite {
		return mxerr.New(http.StatusForbidden, mxerr.CodeInviteBlocked, "The user does not accept invites")
	}
	return s.checkPendingInvites(ctx, user, inviter)
}
