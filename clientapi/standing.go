package clientapi

import (
	"slices"

	"ebb/httpapi"
)

// forLocked lists the operations that locked accounts may call.
// Spec: client-server-api#account-locking
var forLocked = []string{"logout", "logout_all"}

// actions lists the operations that suspended accounts may not call, in addition to the events that rooms.Send refuses.
// Suspended users can still read, verify devices, back up keys, leave rooms, redact their own events, log out,
// deactivate their accounts, and add addresses, but not remove any.
// Spec: client-server-api#account-suspension
var actions = []string{
	"createRoom", "joinRoom", "joinRoomById", "knockRoom", "inviteUser", "kick", "ban", "unban", "upgradeRoom",
	"setRoomAlias", "deleteRoomAlias", "setRoomVisibilityOnDirectory",
	"setProfileField", "deleteProfileField", "setPresence",
	"uploadContent", "uploadContentToMXC", "createContent",
	"delete3pidFromAccount", "unbind3pidFromAccount",
}

// forGuests lists the operations that guests may call, besides those that need no account.
// Spec: client-server-api#guest-access
var forGuests = []string{
	"getRoomState", "getEventContext", "getOneRoomEvent", "getRoomStateWithKey", "getRoomEvents", "getMembersByRoom", "roomInitialSync",
	"sync", "peekEvents", "getContentAuthed", "getContentOverrideNameAuthed", "getContentThumbnailAuthed",
	"joinRoomById", "leaveRoom", "sendMessage", "setRoomStateWithKey", "sendToDevice",
	"setProfileField", "deleteProfileField", "getDevices", "getDevice", "updateDevice", "getTokenOwner",
	"uploadKeys", "queryKeys", "claimKeys",
	// These are not in the specification's list, but clients need them. Synapse allows sliding sync too.
	"slidingSync", "slidingSyncUnstable", "joinRoom", "getCapabilities", "logout", "logout_all",
	"scheduleDelayedEvent", "getDelayedEvents", "getDelayedEvent", // MSC4140: so that guests can take part in calls
}

// byStanding marks the routes that locked, suspended or guest accounts may or may not call.
func byStanding(routes []httpapi.Route) []httpapi.Route {
	for i := range routes {
		r := &routes[i]
		r.Locked = slices.Contains(forLocked, r.OperationID)
		r.Guests = slices.Contains(forGuests, r.OperationID)
		r.Acts = slices.Contains(actions, r.OperationID)
	}
	return routes
}

// OperationsByStanding returns the operations named in this file, so that a test can check that they exist.
func OperationsByStanding() []string { return slices.Concat(forLocked, actions, forGuests) }
