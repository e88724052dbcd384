package pdu

import (
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"
)

// MaxIDLength is the size limit of user, room and event IDs, event types and state keys, in bytes.
// Spec: client-server-api#size-limits
const MaxIDLength = 255

// nul is the character that IDs must not contain.
const nul = "\x00"

// hashLength is the length of a SHA-256 hash in unpadded base64.
const hashLength = 43

// ValidUserID reports whether u is a valid user ID in an event. Its localpart may contain all characters except ':' and
// NUL, as in historical user IDs.
// Spec: appendices#historical-user-ids
func ValidUserID(u id.UserID) bool {
	return len(u) <= MaxIDLength && strings.HasPrefix(string(u), "@") && validLocalAndServer(string(u[1:]))
}

// ValidRoomID reports whether r is a valid room ID in room version v: with a server name up to version 11, a hash since
// version 12.
// Spec: appendices#room-ids
func ValidRoomID(v *Version, r id.RoomID) bool {
	if len(r) > MaxIDLength || !strings.HasPrefix(string(r), "!") {
		return false
	}
	if v.RoomIDIsCreateHash {
		return validHash(string(r[1:]), EventIDURLHash)
	}
	return validLocalAndServer(string(r[1:]))
}

// LooksLikeRoomID reports whether r may be a room ID of some room version.
func LooksLikeRoomID(r id.RoomID) bool { return len(r) > 1 && len(r) <= MaxIDLength && r[0] == '!' }

// ValidRoomAlias reports whether a is a room alias: #localpart:server, of at most 255 bytes and without spaces and
// control characters.
// Spec: appendices#room-aliases
func ValidRoomAlias(a id.RoomAlias) bool {
	if len(a) > MaxIDLength || len(a) < 2 || a[0] != '#' || !utf8.ValidString(string(a)) {
		return false
	}
	localpart, server, found := strings.Cut(string(a[1:]), ":")
	return found && localpart != "" && ValidServerName(server) && !strings.ContainsFunc(localpart, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// CreateEventID returns the ID of the create event of a room whose ID is that event's hash: room version 12 and later.
// Spec: rooms/v12#room-ids-as-hashes-of-the-create-event
func CreateEventID(r id.RoomID) id.EventID {
	return id.EventID("$" + strings.TrimPrefix(string(r), "!"))
}

// validOwnEventID reports whether e is a valid event_id in room versions 1 and 2.
// Spec: rooms/v1#event-ids
func validOwnEventID(e id.EventID) bool {
	return len(e) <= MaxIDLength && strings.HasPrefix(string(e), "$") && validLocalAndServer(string(e[1:]))
}

// validReference reports whether e is acceptable where an event refers to another one. It also accepts IDs that no
// event can have. They do no harm: Ebb treats them like the IDs of events that it never receives.
func validReference(e id.EventID) bool {
	return len(e) <= MaxIDLength && strings.HasPrefix(string(e), "$") && !strings.Contains(string(e), nul)
}

// validLocalAndServer reports whether s is the part of an ID after its sigil: a localpart, a colon and a server name.
func validLocalAndServer(s string) bool {
	local, server, found := strings.Cut(s, ":")
	return found && !strings.Contains(local, nul) && ValidServerName(server)
}

// validHash reports whether s is a SHA-256 hash in the unpadded base64 of an event ID format.
func validHash(s string, format EventIDFormat) bool {
	if len(s) != hashLength {
		return false
	}
	for i := range len(s) {
		c := s[i]
		special := c == '-' || c == '_'
		if format == EventIDHash {
			special = c == '+' || c == '/'
		}
		if !isAlphanumeric(c) && !special {
			return false
		}
	}
	return true
}

// ValidServerName reports whether s is a server name: a DNS name, an IPv4 address or an IPv6 address in brackets,
// optionally followed by a port.
// Spec: appendices#server-name
func ValidServerName(s string) bool {
	if len(s) == 0 || len(s) > MaxIDLength {
		return false
	}
	if s[0] == '[' {
		address, port, found := strings.Cut(s[1:], "]")
		return found && validIPv6(address) && (port == "" || port[0] == ':' && validPort(port[1:]))
	}
	host, port, found := strings.Cut(s, ":")
	return validHost(host) && (!found || validPort(port))
}

func validPort(s string) bool {
	return len(s) >= 1 && len(s) <= 5 && strings.Trim(s, "0123456789") == ""
}

func validIPv6(s string) bool {
	return len(s) >= 2 && len(s) <= 45 && strings.Trim(s, "0123456789abcdefABCDEF:.") == ""
}

// validHost reports whether s is a DNS name or an IPv4 address, which has only characters of DNS names.
func validHost(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '-' && c != '.' {
			return false
		}
	}
	return s != ""
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
