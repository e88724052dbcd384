package rooms

import (
	"net/netip"
	"strings"
	"sync/atomic"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/pushrules"
)

const (
	// maxACLEntries bounds the patterns of a server access control list that are used. An event has room for some
	// thousands, and each has to be matched against the server's name.
	maxACLEntries = 10_000
	// maxACLPattern is longer than any server name can be.
	maxACLPattern = 512
)

// acl is a compiled m.room.server_acl event.
type acl struct {
	event       *Event
	allow, deny []pushrules.Glob
	literals    bool // IP addresses are allowed
}

// aclCache caches the compiled list of a room until the event changes.
type aclCache struct{ last atomic.Pointer[acl] }

// AllowsServer reports whether the room's server access control list allows a server.
// Spec: client-server-api#mroomserver_acl
func (r *Room) AllowsServer(server string) bool {
	e := r.State(typeServerACL, "")
	if e == nil {
		return true
	}
	list := r.acl.last.Load()
	if list == nil || list.event != e {
		list = compileACL(e.Content())
		list.event = e
		r.acl.last.Store(list)
	}
	return list.allows(server)
}

// checkOwnACL rejects a server access control list that denies this server, since nobody on this server could revert
// it.
func (s *Service) checkOwnACL(content []byte) error {
	if content, err := canonjson.Canonical(content, false); err == nil && !compileACL(content).allows(s.opts.Server) {
		return mxerr.InvalidParam("This access control list would exclude your own server, %s, from the room", s.opts.Server)
	}
	return nil
}

func compileACL(content []byte) *acl {
	raw, _ := canonjson.Get(content, "allow_ip_literals")
	return &acl{allow: patterns(content, "allow"), deny: patterns(content, "deny"), literals: string(raw) != "false"}
}

// patterns compiles one of the lists in the event. It skips entries that are not strings.
func patterns(content []byte, member string) (out []pushrules.Glob) {
	raw, _ := canonjson.Get(content, member)
	list, _ := canonjson.Elements(raw)
	for _, p := range list[:min(len(list), maxACLEntries)] {
		if text, ok := canonjson.Unquote(p); ok && len(text) <= maxACLPattern {
			out = append(out, pushrules.CompileGlob(text))
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

// hostOf returns a server name without its port.
func hostOf(server string) string {
	if i := strings.LastIndexByte(server, ':'); i >= 0 && !strings.HasSuffix(server, "]") {
		return server[:i]
	}
	return server
}
