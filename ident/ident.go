// Package ident defines the numbers that represent long IDs in memory and in the database, and the type that identifies
// the requester of an operation.
//
// Each user, room and device has a number (NID) in addition to its ID of the specification. Tables and maps use the
// number. It is allocated from the stream of positions when something first refers to the user, room or device. It is
// never reused, and has no meaning outside its database. 0 stands for none.
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

// DelayedSend is used in place of a device for an event that was sent as a delayed event.
const DelayedSend DeviceNID = -1

// PusherNID is the number of a pusher of a local user.
type PusherNID int64

// Order is the position of an event in its room's timeline; a later event has a higher order. There are gaps between
// the orders, so that history can be inserted. Order differs from the stream position (Pos), which reflects the order
// of arrival over all rooms. 0 means that the event is not part of the timeline.
type Order int64

// Requester is the user on whose behalf something is read or done, with the device and the access token of the request.
// If the server itself acts for a user, for example when a deactivated account leaves its rooms, there is neither a
// device nor a token.
type Requester struct {
	UserID     id.UserID
	UserNID    UserNID
	DeviceID   id.DeviceID // empty if there is no device
	DeviceNID  DeviceNID   // 0 if there is no device
	TokenID    int64       // number of the access token; 0 if there is none
	IsAdmin    bool        // whether the user is an administrator of this server
	Locked     bool        // whether an administrator has locked the account, which may then only log out
	Suspended  bool        // whether an administrator has suspended the account
	Guest      bool        // whether this is a guest account
	AppService string      // ID of the application service that acts; empty if there is none
	// RateLimited says whether the requests of the application service are rate-limited like those of users.
	RateLimited bool
}

// Transactions returns the device that the transaction ID of the request belongs to. For a user without a device, such
// as one of an application service, it returns a number that no device has.
func (r *Requester) Transactions() DeviceNID {
	if r.DeviceNID == 0 {
		return DeviceNID(-r.UserNID)
	}
	return r.DeviceNID
}

// HostOf returns a server name without its port.
func HostOf(server string) string {
	if i := strings.LastIndexByte(server, ':'); i >= 0 && !strings.HasSuffix(server, "]") {
		return server[:i]
	}
	return server
}

// ServerOf returns the server name in a Matrix ID, which is the part after the first colon, or "" if there is none.
// Spec: appendices#common-identifier-format
func ServerOf[ID ~string](fullID ID) string {
	_, server, _ := strings.Cut(string(fullID), ":")
	return server
}

// Pos is a position in the stream of all durable changes that clients can sync. Zero is before everything.
type Pos int64
