package eventauth

import (
	"bytes"
	"errors"
	"strings"

	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

var errStop = errors.New("stop")

// getString returns the string under the given key of an object, or "" if there is none.
func getString(obj []byte, key string) string {
	raw, _ := canonjson.Get(obj, key)
	s, _ := canonjson.Unquote(raw)
	return s
}

// isObject reports whether a valid JSON value is an object.
func isObject(raw []byte) bool { return bytes.HasPrefix(raw, []byte("{")) }

// isUserList reports whether raw is a list of user IDs.
func isUserList(raw []byte) bool {
	_, ok := userList(raw)
	return ok
}

// userList decodes a list of user IDs. It returns false if raw is anything else.
func userList(raw []byte) ([]string, bool) {
	items, ok := canonjson.Elements(raw)
	if !ok {
		return nil, false
	}
	users := make([]string, 0, len(items))
	for _, item := range items {
		user, ok := canonjson.Unquote(item)
		if !ok || !pdu.ValidUserID(id.UserID(user)) {
			return nil, false
		}
		users = append(users, user)
	}
	return users, true
}

// looksLikeUser reports whether s is acceptable as a user ID in power levels and as an authorising user.
//
// Deviation: like other servers, it does not check the grammar of the server name. Otherwise Ebb and they would
// disagree about the state of a room whose power levels contain a misspelt server name.
// Spec: appendices#historical-user-ids
func looksLikeUser(s string) bool {
	return len(s) <= pdu.MaxIDLength && strings.HasPrefix(s, "@") && domain(s) != "" && !strings.Contains(s, "\x00")
}

// domain returns the server name in an ID: the part after the first colon.
func domain(s string) string {
	_, server, _ := strings.Cut(s, ":")
	return server
}
