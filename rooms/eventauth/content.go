package eventauth

import (
	"errors"
	"strings"

	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

var errStop = errors.New("stop")

// getString returns a member of an object that is a string; "" if there is none.
func getString(obj []byte, key string) string {
	raw, _ := canonjson.Get(obj, key)
	s, _ := canonjson.Unquote(raw)
	return s
}

// isObject tells by the first byte of a JSON value whether it is an object.
func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }

// isUserList tells whether raw is a list of nothing but user ids.
func isUserList(raw []byte) bool {
	_, ok := userList(raw)
	return ok
}

// userList decodes a list of user ids; false if raw is anything else.
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

// looksLikeUser accepts what may stand as a user id in power levels and as an authorising user.
//
// Deviation: the server name is not held against its grammar, as other servers do not: a room whose power levels hold
// a misspelt server name would otherwise fall apart between them and us.
// Spec: appendices#historical-user-ids
func looksLikeUser(s string) bool {
	return len(s) <= pdu.MaxIDLength && strings.HasPrefix(s, "@") && domain(s) != "" && strings.IndexByte(s, 0) < 0
}

// domain returns what follows the first colon of an id: its server name.
func domain(s string) string {
	_, server, _ := strings.Cut(s, ":")
	return server
}
