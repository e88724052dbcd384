package federation_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"image/png"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/internal/testserver"
	"ebb/rooms/pdu"
)

// spy is spy.test, a server without any rooms that is implemented by the test.
type spy struct {
	*testing.T
	net    *testserver.Network
	signer pdu.Signer
}

func newSpy(t *testing.T, net *testserver.Network) *spy {
	s := &spy{T: t, net: net, signer: pdu.Signer{Server: "spy.test", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))}}
	key := base64.RawStdEncoding.EncodeToString(s.signer.Key.Public().(ed25519.PublicKey))
	answer := s.signed(map[string]any{
		"server_name": "spy.test", "valid_until_ts": net.Servers[0].Now().Add(24 * time.Hour).UnixMilli(),
		"verify_keys": map[string]any{"ed25519:1": map[string]any{"key": key}}, "old_verify_keys": map[string]any{},
	})
	net.Serve("spy.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/_matrix/key/v2/server") {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(answer)
	}))
	return s
}

func (s *spy) signed(v any) []byte {
	s.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		s.Fatal(err)
	}
	signed, err := pdu.SignJSON(raw, s.signer)
	if err != nil {
		s.Fatal(err)
	}
	return signed
}

// ask sends a signed request to hs1.test.
func (s *spy) ask(method, uri string, body any) *httptest.ResponseRecorder {
	s.Helper()
	what := map[string]any{"method": method, "uri": uri, "origin": "spy.test", "destination": "hs1.test"}
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			s.Fatal(err)
		}
		what["content"], reader = json.RawMessage(raw), bytes.NewReader(raw)
	}
	signatures, _ := canonjson.Get(s.signed(what), "signatures")
	signature, _ := testserver.Get(decode(signatures), "spy.test", "ed25519:1").(string)
	r := httptest.NewRequest(method, uri, reader)
	r.Header.Set("Authorization", fedclient.XMatrix{Origin: "spy.test", Destination: "hs1.test", Key: "ed25519:1", Signature: signature}.String())
	w := httptest.NewRecorder()
	s.net.Servers[0].Handler("federation").ServeHTTP(w, r)
	return w
}

// gets sends a request that must return 200.
func (s *spy) gets(method, uri string, body any) any {
	s.Helper()
	w := s.ask(method, uri, body)
	if w.Code != http.StatusOK {
		s.Errorf("%s %s: %d %s", method, uri, w.Code, w.Body)
	}
	return decode(w.Body.Bytes())
}

func (s *spy) refused(method, uri string, body any, status int, code string) {
	s.Helper()
	w := s.ask(method, uri, body)
	if w.Code != status || testserver.Get(decode(w.Body.Bytes()), "errcode") != code {
		s.Errorf("%s %s: %d %s, want %d %s", method, uri, w.Code, w.Body, status, code)
	}
}

const v1 = "/_matrix/federation/v1"

// CVE-2022-39335, CVE-2021-39164 and similar: a server outside a private room gets no information about the room from
// any request.
func TestAServerOutsideARoomLearnsNothingAboutIt(t *testing.T) {
	net, alice, _ := pair(t)
	s := newSpy(t, net)
	private := made(alice, "private", "private_chat", map[string]any{"visibility": "public"})
	public := made(alice, "public", "public_chat", nil)
	for _, room := range []string{private, public} {
		at := url.PathEscape(room)
		message, _ := alice.Do("PUT", "/v3/rooms/"+at+"/send/m.room.message/1"+at, map[string]any{"msgtype": "m.text", "body": "for members"})["event_id"].(string)
		event := url.PathEscape(message)
		s.refused("GET", v1+"/event/"+event, nil, 403, "M_FORBIDDEN")
		s.refused("GET", v1+"/state/"+at+"?event_id="+event, nil, 403, "M_FORBIDDEN")
		s.refused("GET", v1+"/state_ids/"+at+"?event_id="+event, nil, 403, "M_FORBIDDEN")
		s.refused("GET", v1+"/event_auth/"+at+"/"+event, nil, 403, "M_FORBIDDEN")
		s.refused("GET", v1+"/backfill/"+at+"?limit=10&v="+event, nil, 403, "M_FORBIDDEN")
		s.refused("POST", v1+"/get_missing_events/"+at, map[string]any{"earliest_events": []string{}, "latest_events": []string{message}}, 403, "M_FORBIDDEN")
		s.refused("GET", v1+"/timestamp_to_event/"+at+"?dir=b&ts=9999999999999", nil, 403, "M_FORBIDDEN")
	}
	s.refused("GET", v1+"/hierarchy/"+url.PathEscape(private), nil, 404, "M_NOT_FOUND")
	if got := s.gets("GET", v1+"/hierarchy/"+url.PathEscape(public), nil); testserver.Get(got, "room", "name") != "public" {
		t.Errorf("the public room is shown as %v", got)
	}
	for _, user := range []string{"@bob:hs2.test", "@alice:hs1.test:8448", "alice", ""} {
		if w := s.ask("GET", v1+"/query/profile?user_id="+url.QueryEscape(user), nil); w.Code < 400 || w.Code >= 500 {
			t.Errorf("the profile of %q: %d %s", user, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	net.Servers[0].Handler("federation").ServeHTTP(w, httptest.NewRequest("GET", v1+"/publicRooms", nil))
	if w.Code != 401 {
		t.Errorf("an unsigned request is answered with %d", w.Code)
	}
}

func TestPublicInformationIsVisibleToEveryServer(t *testing.T) {
	net, alice, _ := pair(t)
	s := newSpy(t, net)
	room := made(alice, "tea", "public_chat", map[string]any{"visibility": "public", "room_alias_name": "tea"})
	if got := s.gets("GET", v1+"/publicRooms?limit=5", nil); testserver.Get(got, "chunk", 0, "room_id") != room {
		t.Errorf("the directory is %v", got)
	}
	if got := s.gets("GET", v1+"/query/directory?room_alias="+url.QueryEscape("#tea:hs1.test"), nil); testserver.Get(got, "room_id") != room {
		t.Errorf("the alias leads to %v", got)
	}
	if got := s.gets("GET", v1+"/query/profile?field=displayname&user_id="+alice.User, nil); testserver.Get(got, "displayname") != nil && testserver.Get(got, "avatar_url") != nil {
		t.Errorf("the profile is %v", got)
	}
	if got := s.gets("GET", v1+"/version", nil); testserver.Get(got, "server", "name") != "Ebb" {
		t.Errorf("the version is %v", got)
	}
	if got := s.gets("GET", v1+"/user/devices/"+alice.User, nil); testserver.Get(got, "user_id") != alice.User {
		t.Errorf("the devices are %v", got)
	}
	s.refused("GET", v1+"/query/nothing", nil, 404, "M_UNRECOGNIZED")
	s.refused("POST", "/_matrix/policy/v1/sign", map[string]any{}, 404, "M_UNRECOGNIZED")
}

func TestFilesAndThumbnailsAreServedInTwoParts(t *testing.T) {
	net, alice, _ := pair(t)
	s := newSpy(t, net)
	data := picture(t, 600, 400)
	mediaID := upload(t, alice, "holiday.png", data)
	second := func(uri string) (http.Header, []byte) {
		t.Helper()
		w := s.ask("GET", uri, nil)
		kind, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
		if w.Code != 200 || kind != "multipart/mixed" || err != nil {
			t.Fatalf("%s: %d %v %s", uri, w.Code, w.Header(), w.Body)
		}
		parts := multipart.NewReader(w.Body, params["boundary"])
		about, err := parts.NextPart()
		if err != nil || about.Header.Get("Content-Type") != "application/json" {
			t.Fatal(err, about)
		}
		file, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(file)
		if _, end := parts.NextPart(); err != nil || end != io.EOF {
			t.Fatal(err, end)
		}
		return http.Header(file.Header), body
	}
	header, body := second(v1 + "/media/download/" + mediaID)
	if !bytes.Equal(body, data) || !strings.Contains(header.Get("Content-Disposition"), "holiday.png") {
		t.Errorf("%v, %d bytes", header, len(body))
	}
	header, body = second(v1 + "/media/thumbnail/" + mediaID + "?width=32&height=32&method=crop")
	if small, err := png.DecodeConfig(bytes.NewReader(body)); err != nil || small.Width != 32 || header.Get("Content-Type") != "image/png" {
		t.Errorf("%v %v %v", header, small, err)
	}
	s.refused("GET", v1+"/media/download/nothing", nil, 404, "M_NOT_FOUND")
	s.refused("GET", v1+"/media/download/..%2f..%2febb.db", nil, 404, "M_NOT_FOUND")
	s.refused("GET", v1+"/media/thumbnail/"+mediaID, nil, 400, "M_MISSING_PARAM")
	s.refused("GET", v1+"/media/thumbnail/"+upload(t, alice, "text", []byte("<svg/>"))+"?width=32&height=32", nil, 400, "M_UNKNOWN")
}

// Synapse finds the name of a file only if Content-Type comes before Content-Disposition.
func TestContentTypeComesBeforeTheNameOfAFile(t *testing.T) {
	net, alice, _ := pair(t)
	s := newSpy(t, net)
	mediaID := upload(t, alice, "holiday.png", picture(t, 60, 40))
	order := regexp.MustCompile(`\r\n--\w+\r\nContent-Type: [^\r\n]+\r\nContent-Disposition: [^\r\n]+\r\n\r\n`)
	for _, uri := range []string{"/media/download/" + mediaID, "/media/thumbnail/" + mediaID + "?width=32&height=32"} {
		if raw := s.ask("GET", v1+uri, nil).Body.String(); !order.MatchString(raw) {
			t.Errorf("%s: %.300q", uri, raw)
		}
	}
}
