// Package acl implements server access control lists: which servers an m.room.server_acl event allows in a room.
package acl

import (
	"net/netip"
	"strings"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/pushrules"
)

const (
	// maxEntries bounds the patterns of each list that are used. An event has room for some thousands, and each has to
	// be matched against the server's name.
	maxEntries = 10_000
	// maxPattern is longer than any server name can be.
	maxPattern = 512
)

// List is a compiled access control list.
type List struct {
	allow, deny []pushrules.Glob
	literals    bool // IP addresses are allowed
}

// Compile compiles the content of m.room.server_acl.
func Compile(content []byte) *List {
	raw, _ := canonjson.Get(content, "allow_ip_literals")
	return &List{allow: patterns(content, "allow"), deny: patterns(content, "deny"), literals: string(raw) != "false"}
}

// patterns compiles the list of patterns under the given key of the content. It skips entries that are too long or not
// strings.
func patterns(content []byte, key string) (out []pushrules.Glob) {
	raw, _ := canonjson.Get(content, key)
	list, _ := canonjson.Elements(raw)
	for _, p := range list[:min(len(list), maxEntries)] {
		if text, ok := canonjson.Unquote(p); ok && len(text) <= maxPattern {
			out = append(out, pushrules.CompileGlob(text))
		}
	}
	return out
}

// Allows reports whether the list allows the given server.
// Spec: client-server-api#mroomserver_acl
func (l *List) Allows(server string) bool {
	host := ident.HostOf(server)
	if !l.literals {
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			return false
		}
	}
	for _, p := range l.deny {
		if p.Match(host) {
			return false
		}
	}
	for _, p := range l.allow {
		if p.Match(host) {
			return true
		}
	}
	return false
}
