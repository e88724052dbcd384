// Package ident defines the numbers that represent long IDs in memory and in the database, and the type that identifies
// who makes a request.
//
// Each user, room and device has a number (NID) besides the ID that the specification gives it. Tables and maps contain
// the number. It is allotted from the stream of positions when something first refers to the user, room or device, is
// never used for another one, and has no meaning outside its database. 0 stands for none.
//
// Each kind of number has its own type, so that a call with two of them in the wrong order does not compile. They are
// converted to and from int64 only at the database.
package ident

import (
	"strings"

	"maunium.net/go/mautrix/id"
)

// UserNID is the number of a user of any server.
type UserNID int64

// RoomNID is the number of a room.
type RoomNID int64

// DeviceNID is the number of a device of a local user.
type DeviceNID int64

// DelayedSend stands for the device of an event that was sent as a delayed event.
const DelayedSend DeviceNID = -1

// PusherNID is the number of a pusher of a local user.
type PusherNID int64

// Order is the position of an event in its room's timeline: events with a higher order are later. Gaps are left so that
// history can be inserted before and between. It differs from the stream position (storage.Pos), which is the order of
// arrival over all rooms. 0 means that the event is not part of the timeline.
type Order int64

// Requester is the user for whom something is read or done, with the device and the access token of the request. If the
// server acts for a user by itself, for example when a deactivated account leaves its rooms, there is neither.
type Requester struct {
	UserID     id.UserID
	UserNID    UserNID
	DeviceID   id.DeviceID // "" if there is no device
	DeviceNID  DeviceNID   // 0 if there is no device
	TokenID    int64       // the number of the access token; 0 if there is none
	IsAdmin    bool        // whether the user is an administrator of this server
	Locked     bool        // whether an administrator has locked the account: only logging out is allowed
	Suspended  bool        // whether an administrator has suspended the account
	Guest      bool        // whether this is a guest account
	AppService string      // ID of the application service that acts; "" if there is none
	// RateLimited is set if the requests of the application service are limited like those of users.
	RateLimited bool
}

// Transactions returns the device to which the transaction ID of the request belongs, or 0 if transaction IDs have no
// effect. For a user of an application service without a device, it is a number that no device has.
func (r *Requester) Transactions() DeviceNID {
	if r.DeviceNID == 0 && r.AppService != "" {
		return DeviceNID(-r.UserNID)
	}
	return r.DeviceNID
}

// ServerOf returns the server name in a Matrix ID: the part after the first colon, or "" if there is none.
// Spec: appendices#common-identifier-format
func ServerOf[ID ~string](fullID ID) string {
	_, server, _ := strings.Cut(string(fullID), ":")
	return server
}
