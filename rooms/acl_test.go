package rooms

import (
	"encoding/json"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
)

func TestServerACLThatExcludesItsOwnServerIsRefused(t *testing.T) {
	for _, name := range []string{"here", "10.0.0.1:8448"} {
		n := newNetwork(t)
		h := n.add(name)
		alice := h.user("alice")
		room := h.create(alice, CreateRoom{})
		for _, content := range []string{
			`{}`, `{"allow":[]}`, `{"allow":"*"}`, `{"allow":["elsewhere"]}`, `{"allow":["*"],"deny":["*"]}`, `{"allow":["*"],"deny":["HERE","10.*"]}`,
			`{"allow":["h?re"],"deny":["h*","10.0.0.1"]}`,
		} {
			_, err := h.trySet(alice, room, typeServerACL, "", content)
			h.refused(err, mxerr.CodeInvalidParam)
			_, err = h.svc.Create(t.Context(), alice, CreateRoom{InitialState: []InitialState{{Type: typeServerACL, Content: json.RawMessage(content)}}})
			h.refused(err, mxerr.CodeInvalidParam)
		}
		_, err := h.trySet(alice, room, typeServerACL, "", `{"allow":["*"],"allow_ip_literals":false}`)
		if want := map[bool]string{true: "", false: mxerr.CodeInvalidParam}[name == "here"]; mxerr.Code(err) != want {
			t.Errorf("%s, without IP literals: got error %v, want code %q", name, err, want)
		}
		h.set(alice, room, typeServerACL, "other", `{}`) // with a state key, this is not the access control list of the room
		first := h.set(alice, room, typeServerACL, "", `{"allow":["*"],"deny":["evil"]}`)
		second := h.set(alice, room, typeServerACL, "", `{"allow":["`+strings.TrimSuffix(name, ":8448")+`"]}`)
		for _, eventID := range []id.EventID{first, second} { // state resolution may make the first one current again
			_, err := h.svc.Redact(t.Context(), alice, room, eventID, "", nil)
			h.refused(err, mxerr.CodeForbidden)
		}
		if !h.room(room).AllowsServer(name) {
			t.Error("the room excludes its only server")
		}
	}
}
