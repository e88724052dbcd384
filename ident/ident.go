// Package ident has the type that says who a request acts for.
package ident

import "maunium.net/go/mautrix/id"

// Requester is the user for whom something is read or done, with the device and the access token that the request came with.
// Where this server acts for a user on its own, as when a deactivated account leaves its rooms, there is neither.
type Requester struct {
	UserID     id.UserID
	UserNID    int64
	DeviceID   id.DeviceID // "": no device
	DeviceNID  int64       // 0: no device
	TokenID    int64       // the number of the access token; 0: none
	IsAdmin    bool        // an administrator of this server
	AppService string      // id of the application service that acts; "": none
}
