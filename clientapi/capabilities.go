package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/rooms/pdu"
)

func (a *API) capabilitiesRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/capabilities", Aliases: []string{"/_matrix/client/r0/capabilities"},
		OperationID: "getCapabilities", File: "capabilities.yaml", Auth: httpapi.User, Handler: a.getCapabilities}}
}

// getCapabilities returns what the user can do on this server.
// Spec: client-server-api#capabilities-negotiation
func (a *API) getCapabilities(r *httpapi.Request) (any, error) {
	elsewhere, err := a.Accounts.PasswordElsewhere(r.Context(), r.UserNID)
	if err != nil {
		return nil, err
	}
	oauth := false // whether the user manages the account on the account page, not in this client
	if a.OAuth != nil {
		if oauth, err = a.Accounts.IsOAuth(r.Context(), r.DeviceNID); err != nil {
			return nil, err
		}
	}
	can := func(enabled bool) map[string]bool { return map[string]bool{"enabled": enabled} }
	all := map[string]any{
		"m.change_password":              can(!oauth && elsewhere == ""),
		"m.set_displayname":              can(true),
		"m.set_avatar_url":               can(true),
		"m.3pid_changes":                 can(!oauth && a.Accounts.HasEmail()),
		"m.get_login_token":              can(!oauth),
		"io.element.msc4452.preview_url": can(a.Previews != nil),
		"m.profile_fields":               can(true),
		"m.forget_forced_upon_leave":     can(false),
		"m.room_versions":                map[string]any{"default": a.Config.Rooms.DefaultVersion, "available": roomVersions()},
	}
	if r.IsAdmin {
		moderates := map[string]bool{"suspend": true, "lock": true}
		all["m.account_moderation"], all["uk.timedout.msc4323"] = moderates, moderates
	}
	if longest, most := a.Delayed.Limits(); a.Delayed.Enabled() { // MSC4140
		all["org.matrix.msc4140.delayed_events"] = map[string]any{"max_delay_ms": longest.Milliseconds(), "max_scheduled": most}
	}
	return map[string]any{"capabilities": all}, nil
}

// roomVersions returns the supported room versions, all of which are stable.
func roomVersions() map[id.RoomVersion]string {
	out := map[id.RoomVersion]string{}
	for _, v := range pdu.Versions() {
		out[v] = "stable"
	}
	return out
}
