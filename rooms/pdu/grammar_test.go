package pdu

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestValidServerName(t *testing.T) {
	for name, want := range map[string]bool{
		"matrix.org": true, "matrix.org:8888": true, "1.2.3.4": true, "1.2.3.4:1234": true, "[1234:5678::abcd]": true, "[1234:5678::abcd]:5678": true,
		"localhost": true, "MATRIX.org": true, "a-b": true, "h:1": true, "h:12345": true,
		"": false, ":80": false, "h:": false, "h:123456": false, "h:8a": false, "h:8:9": false, "a b": false, "a_b": false, "ü.de": false, "a/b": false, "a\x00": false,
		"[": false, "[]": false, "[::1": false, "::1": false, "[::1]x": false, "[::]": true, "[:]": false, "[::1]:": false, "[g::]": false, "[::1]:x": false, "h:-1": false,
		"[" + strings.Repeat("a", 45) + "]": true, strings.Repeat("a", 255): true, strings.Repeat("a", 256): false, "[" + strings.Repeat("a", 46) + "]": false,
	} {
		if got := ValidServerName(name); got != want {
			t.Errorf("ValidServerName(%q) = %v", name, got)
		}
	}
}

func TestValidUserIDTakesHistoricalOnes(t *testing.T) {
	for user, want := range map[id.UserID]bool{
		"@a:b": true, "@A:b": true, "@:b": true, "@é \n:b.example:80": true, "@a:[::1]": true,
		"": false, "@": false, "@a": false, "a:b": false, "@a:": false, "@a:b:c": false, "@a\x00:b": false, "@\x00:b": false, "!a:b": false,
		id.UserID("@" + strings.Repeat("a", 252) + ":b"): true, id.UserID("@" + strings.Repeat("a", 253) + ":b"): false,
	} {
		if got := ValidUserID(user); got != want {
			t.Errorf("ValidUserID(%q) = %v", user, got)
		}
	}
}

func TestValidRoomIDDependsOnTheVersion(t *testing.T) {
	hash := id.RoomID("!BcJY9cRxLsAFIsUgrqXOEDzqNYVrMfjYmjVUNZCRNRw")
	eachVersion(t, func(t *testing.T, v *Version) {
		for room, want := range map[id.RoomID]bool{
			"!a:b": !v.RoomIDIsCreateHash, "!é:b:80": !v.RoomIDIsCreateHash, hash: v.RoomIDIsCreateHash, hash + "x": false, hash[:43]: false,
			hash[:43] + "+": false, "": false, "!": false, "!a": false, "#a:b": false, "!a\x00:b": false, hash + ":b": !v.RoomIDIsCreateHash,
			id.RoomID("!" + strings.Repeat("a", 252) + ":b"): !v.RoomIDIsCreateHash, id.RoomID("!" + strings.Repeat("a", 253) + ":b"): false,
		} {
			if got := ValidRoomID(v, room); got != want {
				t.Errorf("ValidRoomID(%q) = %v", room, got)
			}
		}
	})
}
