package invites

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/keyed"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		why, typ, content string
		inviter           id.UserID
		want              verdict
	}{
		{"nothing set", typeFilter, `{}`, "@a:x", allow},
		{"all are blocked", typePermission, `{"default_action":"block"}`, "@a:x", block},
		{"the unstable type", typePermissionUnstable, `{"default_action":"block"}`, "@a:x", block},
		{"another action", typePermission, `{"default_action":"allow"}`, "@a:x", allow},
		{"an action of another type", typePermission, `{"default_action":["block"]}`, "@a:x", allow},
		{"the stable type has no lists", typePermission, `{"blocked_users":["*"]}`, "@a:x", allow},
		{"a user is blocked", typeFilter, `{"blocked_users":["@a:x"]}`, "@a:x", block},
		{"another is not", typeFilter, `{"blocked_users":["@a:x"]}`, "@aa:x", allow},
		{"a user is ignored", typeFilter, `{"ignored_users":["@?:x"]}`, "@a:x", ignore},
		{"allowed comes first", typeFilter, `{"blocked_users":["@*:x"],"allowed_users":["@a:*"]}`, "@a:x", allow},
		{"ignored comes before blocked", typeFilter, `{"blocked_users":["@a:x"],"ignored_users":["@a:x"]}`, "@a:x", ignore},
		{"users come before servers", typeFilter, `{"allowed_servers":["x"],"blocked_users":["@a:x"]}`, "@a:x", block},
		{"a server is blocked", typeFilter, `{"blocked_servers":["evil.*"]}`, "@a:evil.example", block},
		{"the port is not matched", typeFilter, `{"blocked_servers":["evil.example"]}`, "@a:evil.example:8448", block},
		{"an IPv6 address is matched whole", typeFilter, `{"blocked_servers":["[2001:db8::1]"]}`, "@a:[2001:db8::1]:8448", block},
		{"also without a port", typeFilter, `{"blocked_servers":["[2001:db8::1]"]}`, "@a:[2001:db8::1]", block},
		{"only an allowed server", typeFilter, `{"allowed_servers":["good.example"],"blocked_servers":["*"]}`, "@a:good.example", allow},
		{"all others", typeFilter, `{"allowed_servers":["good.example"],"blocked_servers":["*"]}`, "@a:other.example", block},
		{"switched off", typeFilter, `{"enabled":false,"blocked_users":["*"]}`, "@a:x", allow},
		{"enabled is of another type", typeFilter, `{"enabled":"false","blocked_users":["*"]}`, "@a:x", block},
		{"an entry that is no string makes all invalid", typeFilter, `{"blocked_users":["@a:x",1]}`, "@a:x", allow},
		{"so does null", typeFilter, `{"blocked_users":["@a:x",null]}`, "@a:x", allow},
		{"and a list of another type", typeFilter, `{"blocked_users":["@a:x"],"blocked_servers":"*"}`, "@a:x", allow},
		{"also if it is null", typeFilter, `{"blocked_users":["@a:x"],"allowed_users":null}`, "@a:x", allow},
		{"an empty text matches nobody", typeFilter, `{"blocked_users":["","@a:x"],"ignored_users":[]}`, "@a:x", block},
		{"not an object", typeFilter, `["block"]`, "@a:x", allow},
	} {
		var f filter
		f.add(c.typ, c.content)
		if got := f.decide(c.inviter); got != c.want {
			t.Errorf("%s: %s gives %d for %s, want %d", c.why, c.content, got, c.inviter, c.want)
		}
	}
	var none *filter
	if none.decide("@a:x") != allow {
		t.Error("without a filter an invite is not allowed")
	}
}

// Account data of 256 KiB must not take much more memory as a filter, whatever its patterns are.
func TestFilterTakesBoundedMemory(t *testing.T) {
	var distinct strings.Builder // every character of a pattern leads to a state of its own
	for c := rune(0x4e00); distinct.Len() < 250<<10; c++ {
		distinct.WriteRune(0x4e00 + (c-0x4e00)%0x5000)
	}
	one, err := json.Marshal(map[string]any{"blocked_users": []string{"*" + distinct.String()}})
	if err != nil {
		t.Fatal(err)
	}
	var many []string
	for text := distinct.String(); len(text) > 507; text = text[507:] {
		many = append(many, "*"+text[:507])
	}
	lists, err := json.Marshal(map[string]any{"blocked_users": many})
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{string(one), string(lists)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var f filter
		f.add(typeFilter, content)
		runtime.ReadMemStats(&after)
		if took := int64(after.TotalAlloc - before.TotalAlloc); took > 32<<20 || f.size > 16<<20 || len(f.rules[0].globs) > 1 && f.size < 1<<20 {
			t.Errorf("a filter of %d patterns takes %d bytes, estimated as %d", len(f.rules[0].globs), took, f.size)
		}
	}
}

func TestTheAnswersToTheInviterAndTheUserDiffer(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	p := NewPolicy(db, "here", keyed.Budget(1<<20))
	set := func(typ, content string) {
		t.Helper()
		err := db.Write(t.Context(), func(tx *storage.Tx) error { return tx.SetAccountData(5, 0, typ, content) })
		if err != nil {
			t.Fatal(err)
		}
		p.Changed(5, typ)
	}
	expect := func(when string, inviter id.UserID, code string, hidden bool) {
		t.Helper()
		err := p.Check(t.Context(), 5, inviter)
		if hides, herr := p.Hides(t.Context(), 5, inviter); mxerr.Code(err) != code || hides != hidden || herr != nil {
			t.Errorf("%s, %s: %v, hidden %v, %v", when, inviter, err, hides, herr)
		}
	}
	expect("at first", "@a:x", "", false)
	set(typeFilter, `{"ignored_users":["@a:x"],"blocked_users":["@b:x"]}`)
	expect("ignored", "@a:x", "", true) // the inviter does not learn of it
	expect("blocked", "@b:x", mxerr.CodeInviteBlocked, true)
	expect("others", "@c:x", "", false)
	set(typePermission, `{"default_action":"block"}`)
	expect("all are blocked", "@c:x", mxerr.CodeInviteBlocked, true)
	set(typePermission, `{}`)
	set("m.direct", `{}`) // does not concern invites
	expect("unblocked", "@c:x", "", false)
}

func TestInvitesCountForALocalUserOrAnotherServer(t *testing.T) {
	for _, c := range []struct {
		a, b id.UserID
		same bool
	}{
		{"@a:here", "@b:here", false}, {"@a:here", "@a:here", true}, {"@a:x", "@b:x", true}, {"@a:x", "@a:y", false}, {"@a:x:1", "@a:x:2", false},
	} {
		if got := countsAs("here", c.a) == countsAs("here", c.b); got != c.same {
			t.Errorf("%s and %s count together: %v", c.a, c.b, got)
		}
	}
}
