package accounts

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// Remote asks other servers about their users; fedclient.Client does.
type Remote interface {
	// QueryProfile asks for a field of a profile, "" for all of them.
	QueryProfile(ctx context.Context, server string, user id.UserID, field string) (map[string]json.RawMessage, error)
}

// Profiles of users of other servers are remembered for a minute: clients ask for those of everybody whom they show.
const (
	profileLifetime    = time.Minute
	maxRemoteProfiles  = 1000 // of at most maxProfile bytes
	maxProfileRequests = 64   // under way
)

func newProfileMemo(entries int, now func() time.Time) *keyed.Memo[id.UserID, []Field] {
	return keyed.NewMemo(keyed.Options[id.UserID, []Field]{Entries: entries, Lifetime: profileLifetime, Loads: maxProfileRequests, Now: now})
}

// remoteUser tells whether a user is of a server that can be asked.
func (s *Service) remoteUser(user id.UserID) (server string, remote bool) {
	_, server, err := user.Parse()
	return server, s.opts.Remote != nil && err == nil && server != s.opts.Server && pdu.ValidServerName(server) && len(user) <= maxUserID
}

// IsRemote reports whether the profile of a user has to be asked for at another server.
func (s *Service) IsRemote(user id.UserID) bool {
	_, remote := s.remoteUser(user)
	return remote
}

// remoteProfile asks a user's server for the profile. What cannot be a field of a profile is left out.
//
// Errors: M_NOT_FOUND and others that the server gives; 502 M_UNKNOWN where it gives no good answer.
func (s *Service) remoteProfile(ctx context.Context, server string, user id.UserID) ([]Field, error) {
	return s.profiles.Get(ctx, user, func(ctx context.Context) ([]Field, error) {
		answer, err := s.opts.Remote.QueryProfile(ctx, server, user, "")
		if err != nil {
			return nil, fedclient.Relay(err)
		}
		return readProfile(answer)
	})
}

func readProfile(answer map[string]json.RawMessage) (fields []Field, err error) {
	size := 0
	for name, value := range answer {
		empty := string(value) == "null" || string(value) == `""`
		if checkKey(name) != nil || checkValue(name, value) != nil || known(name) && empty {
			continue
		}
		size += len(name) + len(value)
		fields = append(fields, Field{name, value})
	}
	if size > maxProfile {
		return nil, mxerr.New(502, mxerr.CodeUnknown, "The profile that the other server sent is too large")
	}
	slices.SortFunc(fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return fields, nil
}
