package clientapi

import (
	"time"

	"ebb/httpapi"
	"ebb/rooms"
	"ebb/rooms/expiry"
)

func (a *API) retentionRoutes() []httpapi.Route {
	return []httpapi.Route{{
		Method: "GET", Path: "/_matrix/client/v3/retention/configuration", Aliases: []string{"/_matrix/client/unstable/org.matrix.msc1763/retention/configuration"},
		OperationID: "getRetentionConfiguration", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getRetentionConfiguration,
	}}
}

// lifetimes is the JSON form of a retention policy. Values are in milliseconds; unlimited ones are omitted.
type lifetimes struct {
	Min *int64 `json:"min_lifetime,omitempty"`
	Max *int64 `json:"max_lifetime,omitempty"`
}

type lifetimeRange struct {
	Min *int64 `json:"min,omitempty"`
	Max *int64 `json:"max,omitempty"`
}

// getRetentionConfiguration returns three things with which clients delete their own copies of messages: the default
// retention policy, under the key "*"; the policies of those of the user's rooms for which neither this nor the room's
// own state applies; and the limits on the policies that rooms may set.
// Spec: MSC1763
func (a *API) getRetentionConfiguration(r *httpapi.Request) (any, error) {
	policies := map[string]lifetimes{"*": lifetimesOf(a.Rooms.RetentionPolicy().Default)}
	memberships, err := a.Rooms.Memberships(r.Context(), r.UserNID)
	if err != nil {
		return nil, err
	}
	for _, m := range memberships {
		if m.Membership != rooms.Join {
			continue
		}
		room, err := a.Rooms.RoomByNID(r.Context(), m.Room)
		if err != nil {
			return nil, err
		}
		stated, _ := room.StatedRetention()
		if room.Override() != nil || stated == nil && !room.Retention().Equal(a.Rooms.RetentionPolicy().Default) {
			policies[string(room.ID())] = lifetimesOf(room.Retention())
		}
	}
	limits := a.Rooms.RetentionPolicy().Limits
	return map[string]any{
		"policies": policies,
		"limits":   map[string]lifetimeRange{"min_lifetime": rangeOf(limits.MinLifetime), "max_lifetime": rangeOf(limits.MaxLifetime)},
	}, nil
}

func lifetimesOf(p expiry.Policy) lifetimes { return lifetimes{Min: millis(p.Min), Max: millis(p.Max)} }

func rangeOf(b expiry.Bounds) lifetimeRange {
	return lifetimeRange{Min: millis(b.Min), Max: millis(b.Max)}
}

func millis(d *time.Duration) *int64 {
	if d == nil {
		return nil
	}
	ms := d.Milliseconds()
	return &ms
}
