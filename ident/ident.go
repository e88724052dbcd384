// Package ident has the numbers that stand for long ids in memory and in the database, and the type that says who a request
// acts for.
//
// Users, rooms and devices have a number each (NID) beside the id that the specification gives them: tables and maps hold the
// number. A number is allotted from the stream of positions when something first names the user, room or device, is never
// given to another, and means nothing outside of its database. 0 is nobody and nothing.
//
// Every kind of number has a type of its own, so that a call with two of them in the wrong order does not compile. They are
// converted to and from int64 only where they enter or leave the database.
package ident

import "maunium.net/go/mautrix/id"

// UserNID is the number of a user of any server.
type UserNID int64

// RoomNID is the number of a room.
type RoomNID int64

// DeviceNID is the number of a device of a user of this server.
type DeviceNID int64

// Order is the place of an event in its room's timeline: events with a higher order are later. Gaps are left so that history
// can be put before and between. It differs from the position (storage.Pos), which is the order of arrival over all rooms.
// 0 means that the event is not part of the timeline.
type Order int64

// Requester is the user for whom something is read or done, with the device and the access token that the request came with.
// Where this server acts for a user on its own, as when a deactivated account leaves its rooms, there is neither.
type Requester struct {
	UserID     id.UserID
	UserNID    UserNID
	DeviceID   id.DeviceID // "": no device
	DeviceNID  DeviceNID   // 0: no device
	TokenID    int64       // the number of the access token; 0: none
	IsAdmin    bool        // an administrator of this server
	AppService string      // id of the application service that acts; "": none
}
