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

// Remote requests profiles from other servers. fedclient.Client implements it.
type Remote interface {
	// QueryProfile requests a field of a profile, or all fields if field is "".
	QueryProfile(ctx context.Context, server string, user id.UserID, field string) (map[string]json.RawMessage, error)
}

// Profiles of remote users are cached for a minute, because clients request those of everybody whom they show.
const (
	profileLifetime    = time.Minute
	maxRemoteProfiles  = 4 << 20 // bytes of profiles, each of which has at most maxProfile; the usual one has 300
	maxProfileRequests = 64      // requests in progress
)

func newProfileMemo(bytes int64, now func() time.Time) *keyed.Memo[id.UserID, []Field] {
	return keyed.NewMemo(keyed.Options[id.UserID, []Field]{
		Bytes: bytes, Size: sizeOfProfile, Lifetime: profileLifetime, Loads: maxProfileRequests, Now: now,
	})
}

// sizeOfProfile estimates the memory that a cached profile takes.
func sizeOfProfile(user id.UserID, fields []Field) int64 {
	size := 128 + len(user)
	for _, f := range fields {
		size += 64 + len(f.Name) + len(f.Value)
	}
	return int64(size)
}

// remoteUser reports whether a user belongs to another server whose profiles can be requested, and returns the server.
func (s *Service) remoteUser(user id.UserID) (server string, remote bool) {
	_, server, err := user.Parse()
	return server, s.opts.Remote != nil && err == nil && server != s.opts.Server && pdu.ValidServerName(server) && len(user) <= maxUserID
}

// IsRemote reports whether the profile of a user has to be requested from another server.
func (s *Service) IsRemote(user id.UserID) bool {
	_, remote := s.remoteUser(user)
	return remote
}

// remoteProfile requests a user's profile from the user's server. Invalid fields are left out.
//
// Errors: M_NOT_FOUND and other errors of the server; 502 M_UNKNOWN if the server cannot be reached or its response is
// invalid.
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
