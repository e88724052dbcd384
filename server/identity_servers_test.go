package server_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

// identityServer is an identity server on which one address is bound.
type identityServer struct {
	*testserver.Server
	name string // HOST:PORT

	// mu guards the fields below.
	mu     sync.Mutex
	bound  map[string]string // hash of an address to a user ID
	stored []obj             // stored invites
	asked  []string          // requests in the form "METHOD PATH Authorization-scheme"
	refuse int               // status of every response; 0 for normal responses
}

const pepper = "matrixrocks"

func hashOf(address string) string {
	sum := sha256.Sum256([]byte(address + " email " + pepper))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func newIdentityServer(t *testing.T) *identityServer {
	t.Helper()
	is := &identityServer{bound: map[string]string{}}
	site := httptest.NewTLSServer(is)
	t.Cleanup(site.Close)
	is.name = strings.TrimPrefix(site.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: site.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	is.Server = testserver.New(t, func(c *config.Config) {
		c.Identity.Servers, c.Federation.TrustedCAFile, c.Federation.AllowPrivateAddresses = []string{is.name}, ca, true
	})
	return is
}

func (is *identityServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	is.mu.Lock()
	defer is.mu.Unlock()
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	path := strings.TrimPrefix(r.URL.Path, "/_matrix/identity/v2")
	is.asked = append(is.asked, r.Method+" "+path+" "+scheme)
	var body obj
	_ = json.NewDecoder(r.Body).Decode(&body) // GET requests have no body
	answer := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v) // the client may have disconnected
	}
	switch {
	case is.refuse != 0:
		answer(is.refuse, obj{"errcode": "M_UNKNOWN_TOKEN", "error": "who are you?"})
	case scheme == "Bearer" && token != "right":
		answer(403, obj{"errcode": "M_TERMS_NOT_SIGNED", "error": "sign our terms"})
	case path == "/3pid/bind":
		is.bound[hashOf("alice@example.org")] = body["mxid"].(string)
		answer(200, obj{"medium": "email", "address": "alice@example.org", "mxid": body["mxid"]})
	case path == "/3pid/unbind" && scheme == "X-Matrix":
		delete(is.bound, hashOf(body["threepid"].(obj)["address"].(string)))
		answer(200, obj{})
	case path == "/hash_details":
		answer(200, obj{"lookup_pepper": pepper, "algorithms": []string{"none", "sha256"}})
	case path == "/lookup":
		found := obj{}
		for _, hash := range body["addresses"].([]any) {
			if user, known := is.bound[hash.(string)]; known && body["pepper"] == pepper {
				found[hash.(string)] = user
			}
		}
		answer(200, obj{"mappings": found})
	case path == "/store-invite":
		is.stored = append(is.stored, body)
		answer(200, obj{"token": "some.token", "display_name": "b...@e...", "public_keys": []obj{{"public_key": "key1", "key_validity_url": "https://id/1"}, {"public_key": "key2", "key_validity_url": "https://id/2"}}})
	default:
		answer(404, obj{"errcode": "M_UNRECOGNIZED", "error": "?"})
	}
}

func (is *identityServer) bind(alice *testserver.Client) {
	alice.Do("POST", "/v3/account/3pid/bind", obj{"client_secret": "s", "sid": "1", "id_server": is.name, "id_access_token": "right"})
}

func TestAddressIsBoundAndUnboundAtAnIdentityServer(t *testing.T) {
	is := newIdentityServer(t)
	alice := is.Register("alice")
	is.bind(alice)
	if is.bound[hashOf("alice@example.org")] != alice.User {
		t.Fatalf("bound: %v", is.bound)
	}
	address := obj{"medium": "email", "address": "alice@example.org"}
	if out := alice.Do("POST", "/v3/account/3pid/unbind", address); out["id_server_unbind_result"] != "success" || len(is.bound) != 0 {
		t.Errorf("unbind: %v, still bound %v", out, is.bound)
	}
	if out := alice.Do("POST", "/v3/account/3pid/unbind", address); out["id_server_unbind_result"] != "no-support" {
		t.Errorf("unbind again: %v", out)
	}
	is.bind(alice)
	if out := alice.Do("POST", "/v3/account/3pid/delete", address); out["id_server_unbind_result"] != "success" || len(is.bound) != 0 {
		t.Errorf("delete: %v, still bound %v", out, is.bound)
	}
	is.bind(alice)
	if out := alice.Do("POST", "/v3/account/deactivate", obj{"auth": passwordOf(alice)}); out["id_server_unbind_result"] != "success" || len(is.bound) != 0 {
		t.Errorf("deactivate: %v, still bound %v", out, is.bound)
	}
}

func TestOnlyConfiguredIdentityServersAreAsked(t *testing.T) {
	is := newIdentityServer(t)
	alice := is.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	for _, server := range []string{"other.example.org", "127.0.0.1", is.name + "/x", "user@" + is.name} {
		alice.Refused("POST", "/v3/account/3pid/bind", obj{"client_secret": "s", "sid": "1", "id_server": server, "id_access_token": "right"}, 403, "M_SERVER_NOT_TRUSTED")
		alice.Refused("POST", "/v3/account/3pid/unbind", obj{"medium": "email", "address": "a@b", "id_server": server}, 403, "M_SERVER_NOT_TRUSTED")
		invite := obj{"id_server": server, "id_access_token": "right", "medium": "email", "address": "bob@example.org"}
		alice.Refused("POST", "/v3/rooms/"+url.PathEscape(room)+"/invite", invite, 403, "M_SERVER_NOT_TRUSTED")
		alice.Refused("POST", "/v3/createRoom", obj{"invite_3pid": []obj{invite}}, 403, "M_SERVER_NOT_TRUSTED")
	}
	if len(is.asked) != 0 {
		t.Errorf("asked %v", is.asked)
	}
	none := testserver.New(t, nil).Register("alice")
	none.Refused("POST", "/v3/account/3pid/bind", obj{"client_secret": "s", "sid": "1", "id_server": is.name, "id_access_token": "right"}, 403, "M_SERVER_NOT_TRUSTED")
}

func TestErrorsOfAnIdentityServerDoNotLogOutTheClient(t *testing.T) {
	is := newIdentityServer(t)
	alice := is.Register("alice")
	body := obj{"client_secret": "s", "sid": "1", "id_server": is.name, "id_access_token": "wrong"}
	alice.Refused("POST", "/v3/account/3pid/bind", body, 403, "M_TERMS_NOT_SIGNED")
	is.refuse = 401
	alice.Refused("POST", "/v3/account/3pid/bind", body, 403, "M_FORBIDDEN")
	is.refuse = 500
	alice.Refused("POST", "/v3/account/3pid/bind", body, 502, "M_UNKNOWN")
	for _, missing := range []string{"client_secret", "sid", "id_server", "id_access_token"} {
		less := obj{"client_secret": "s", "sid": "1", "id_server": is.name, "id_access_token": "right"}
		delete(less, missing)
		alice.Refused("POST", "/v3/account/3pid/bind", less, 400, "M_MISSING_PARAM")
	}
}

func TestOwnerOfAnAddressIsInvited(t *testing.T) {
	is := newIdentityServer(t)
	alice, bob, carol := is.Register("alice"), is.Register("bob"), is.Register("carol")
	is.bind(alice)
	invite := func(address string) obj {
		return obj{"id_server": is.name, "id_access_token": "right", "medium": "email", "address": address}
	}
	room := bob.Do("POST", "/v3/createRoom", obj{"power_level_content_override": obj{"invite": 50}, "invite": []string{carol.User}})["room_id"].(string)
	path := "/v3/rooms/" + url.PathEscape(room)
	bob.Do("POST", path+"/invite", invite("Alice@example.org"))
	alice.Do("POST", path+"/join", nil)
	alice.Refused("POST", path+"/invite", invite("dora@example.org"), 403, "M_FORBIDDEN") // bob lacks the power level
	carol.Refused("POST", path+"/invite", invite("dora@example.org"), 403, "M_FORBIDDEN") // carol is not in the room
	if len(is.stored) != 0 {
		t.Fatalf("stored %v", is.stored)
	}
	bob.Do("POST", path+"/invite", invite("dora@example.org"))
	if len(is.stored) != 1 || is.stored[0]["address"] != "dora@example.org" || is.stored[0]["room_id"] != room || is.stored[0]["sender"] != bob.User {
		t.Errorf("stored %v", is.stored)
	}
	event := bob.Do("GET", path+"/state/m.room.third_party_invite/some.token", nil)
	if event["display_name"] != "b...@e..." || event["public_key"] != "key1" || event["key_validity_url"] != "https://id/1" || len(event["public_keys"].([]any)) != 2 {
		t.Errorf("the event is %v", event)
	}
	made := bob.Do("POST", "/v3/createRoom", obj{"invite_3pid": []obj{invite("alice@example.org"), invite("erin@example.org")}})["room_id"].(string)
	alice.Do("POST", "/v3/rooms/"+url.PathEscape(made)+"/join", nil)
	if len(is.stored) != 2 || is.stored[1]["room_id"] != made {
		t.Errorf("stored %v", is.stored)
	}
	bob.Refused("POST", path+"/invite", obj{"id_server": is.name, "id_access_token": "right", "medium": "msisdn", "address": "1"}, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	bob.Refused("POST", path+"/invite", obj{"medium": "email", "address": "a@example.org"}, 400, "M_MISSING_PARAM")
}
