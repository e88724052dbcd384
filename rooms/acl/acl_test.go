package acl_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ebb/rooms/acl"
)

func TestAllows(t *testing.T) {
	for _, c := range []struct {
		why, content, server string
		want                 bool
	}{
		{"no allow list denies everybody", `{}`, "a.example", false},
		{"an empty allow list denies everybody", `{"allow":[]}`, "a.example", false},
		{"deny takes precedence", `{"allow":["*"],"deny":["evil.example"]}`, "evil.example", false},
		{"deny is not a prefix", `{"allow":["*"],"deny":["evil.example"]}`, "evil.example.org", true},
		{"deny does not cover subdomains", `{"allow":["*"],"deny":["evil.example"]}`, "sub.evil.example", true},
		{"a pattern covers subdomains only", `{"allow":["*"],"deny":["*.evil.example"]}`, "evil.example", true},
		{"a pattern covers subdomains", `{"allow":["*"],"deny":["*.evil.example"]}`, "sub.evil.example", false},
		{"a question mark is one character", `{"allow":["?.example"]}`, "ab.example", false},
		{"the port is not matched", `{"allow":["*"],"deny":["evil.example"]}`, "evil.example:8448", false},
		{"a pattern with a port matches nothing", `{"allow":["*"],"deny":["evil.example:8448"]}`, "evil.example:8448", true},
		{"letter case does not matter", `{"allow":["A.Example"]}`, "a.eXample", true},
		{"dots are literal", `{"allow":["a.example"]}`, "axexample", false},
		{"IP literals are allowed by default", `{"allow":["*"]}`, "192.0.2.1:8448", true},
		{"IPv4 literals can be denied", `{"allow":["*"],"allow_ip_literals":false}`, "192.0.2.1", false},
		{"also with a port", `{"allow":["*"],"allow_ip_literals":false}`, "192.0.2.1:8448", false},
		{"IPv6 literals can be denied", `{"allow":["*"],"allow_ip_literals":false}`, "[2001:db8::1]", false},
		{"also with a port", `{"allow":["*"],"allow_ip_literals":false}`, "[2001:db8::1]:8448", false},
		{"the IPv6 address itself is matched", `{"allow":["*"],"deny":["[2001:db8::1]"]}`, "[2001:db8::1]:8448", false},
		{"a name like an address is no literal", `{"allow":["*"],"allow_ip_literals":false}`, "192.0.2.1.example", true},
		{"a list of another type counts as missing", `{"allow":"*"}`, "a.example", false},
		{"entries of other types are skipped", `{"allow":[1,null,["*"],{"*":1},"a.example"]}`, "a.example", true},
		{"a deny list of another type denies nobody", `{"allow":["*"],"deny":"*"}`, "a.example", true},
		{"allow_ip_literals of another type allows them", `{"allow":["*"],"allow_ip_literals":"false"}`, "192.0.2.1", true},
	} {
		if got := acl.Compile([]byte(c.content)).Allows(c.server); got != c.want {
			t.Errorf("%s: %s allows %s: %v", c.why, c.content, c.server, got)
		}
	}
}

func TestLongListsAreCutOff(t *testing.T) {
	names := make([]string, 10_001)
	for i := range names {
		names[i] = fmt.Sprint("s", i, ".example")
	}
	content, err := json.Marshal(map[string]any{"allow": slices.Concat([]string{strings.Repeat("*", 513)}, names)})
	if err != nil {
		t.Fatal(err)
	}
	list := acl.Compile(content)
	for server, want := range map[string]bool{"other.example": false, "s0.example": true, "s9998.example": true, "s9999.example": false} {
		if list.Allows(server) != want {
			t.Errorf("%s is allowed: %v", server, !want)
		}
	}
}
