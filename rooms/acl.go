package rooms

import (
	"net/netip"
	"strings"
	"sync/atomic"

	"ebb/canonjson"
	"ebb/push"
)

const (
	// maxACLEntries bounds the patterns of a server access control list that are looked at: an event has room for some
	// thousands, and each costs a pass over a server's name.
	maxACLEntries = 10_000
	// maxACLPattern is longer than any server name can be.
	maxACLPattern = 512
)

// acl is m.room.server_acl, compiled.
type acl struct {
	event       *Event
	allow, deny []push.Glob
	literals    bool // IP addresses are let in
}

// aclCache is the compiled list of a room; it is made anew when the event is another one.
type aclCache struct{ last atomic.Pointer[acl] }

// AllowsServer tells whether the room's server access control list lets a server take part.
// Spec: client-server-api#mroomserver_acl
func (r *Room) AllowsServer(server string) bool {
	e := r.State(typeServerACL, "")
	if e == nil {
		return true
	}
	list := r.acl.last.Load()
	if list == nil || list.event != e {
		list = compileACL(e)
		r.acl.last.Store(list)
	}
	return list.allows(server)
}

func compileACL(e *Event) *acl {
	raw, _ := canonjson.Get(e.Content(), "allow_ip_literals")
	return &acl{event: e, allow: patterns(e, "allow"), deny: patterns(e, "deny"), literals: string(raw) != "false"}
}

// patterns compiles a list of the event; what is no string is passed over.
func patterns(e *Event, member string) (out []push.Glob) {
	raw, _ := canonjson.Get(e.Content(), member)
	list, _ := canonjson.Elements(raw)
	for _, p := range list[:min(len(list), maxACLEntries)] {
		if text, ok := canonjson.Unquote(p); ok && len(text) <= maxACLPattern {
			out = append(out, push.CompileGlob(text))
		}
	}
	return out
}

func (a *acl) allows(server string) bool {
	host := hostOf(server)
	if !a.literals {
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			return false
		}
	}
	for _, p := range a.deny {
		if p.Match(host) {
			return false
		}
	}
	for _, p := range a.allow {
		if p.Match(host) {
			return true
		}
	}
	return false
}

// hostOf is a server name without its port.
func hostOf(server string) string {
	if i := strings.LastIndexByte(server, ':'); i >= 0 && !strings.HasSuffix(server, "]") {
		return server[:i]
	}
	return server
}
