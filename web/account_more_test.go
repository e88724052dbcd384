package web_test

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/oidctest"
	"ebb/internal/testserver"
)

func TestAddressIsAddedOnTheAccountPageAfterItsLinkWasFollowed(t *testing.T) {
	l, sink := newPostalLab(t, func(*config.Config) {})
	alice := l.Register("alice")
	b, page := l.own(accountPage + "/emails")
	page.has("has no e-mail address")
	if r := b.press(page, "add-email", "address", "not an address"); r.status != 400 || !strings.Contains(r.body, "not valid") {
		t.Errorf("no address: %d %s", r.status, r.body)
	}
	page = b.press(page, "add-email", "address", " Alice@Example.org ")
	page.has("Open the link")
	if r := b.press(page, "confirm-email"); r.status != 403 || !strings.Contains(r.body, "not been opened yet") {
		t.Errorf("before the link was followed: %d", r.status)
	}
	l.confirm(linkIn(sink))
	stranger, _ := l.own(accountPage) // another browser of the same user does not know the secret of the verification
	if r := stranger.get(accountPage + "/emails"); strings.Contains(r.body, `value="confirm-email"`) {
		t.Error("another browser can use the verification")
	}
	l.Advance(11 * time.Minute) // the user confirms who they are, which changes the cookie of the session
	page = b.step(b.get(accountPage+"/emails"), "password", "password", testserver.Password())
	page = b.press(page, "confirm-email")
	page.has("The e-mail address is added", "alice@example.org")
	if list := alice.Do("GET", "/v3/account/3pid", nil); testserver.Get(list, "threepids", 0, "address") != "alice@example.org" {
		t.Errorf("%v", list)
	}
	l.control("user suspend", obj{"user": "alice"})
	if r := b.press(page, "remove-email"); r.status != 403 {
		t.Errorf("removed by a suspended user: %d", r.status)
	}
	l.control("user unsuspend", obj{"user": "alice"})
	b.press(page, "remove-email").has("The e-mail address is removed")

	plain := newLab(t)
	b, page = plain.own(accountPage)
	if r := b.get(accountPage + "/emails"); r.status != 404 || strings.Contains(page.body, "/emails") {
		t.Errorf("on a server without e-mail: %d", r.status)
	}
}

func TestAddressesNeedARecentSignIn(t *testing.T) {
	l, _ := newPostalLab(t, func(*config.Config) {})
	l.Register("alice")
	b, _ := l.own(accountPage)
	l.Advance(10*time.Minute + time.Second)
	for _, path := range []string{"/emails", "/identities"} {
		if r := b.get(accountPage + path); !r.shows("password") {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

func TestIdentitiesAreLinkedAndRemovedByTheirUser(t *testing.T) {
	p := oidctest.NewFake(t, "identities")
	l := newProviderLab(t, p.Issuer, p.ClientID, gate.Policy{}, nil)
	l.Register("alice")
	b, page := l.own(accountPage + "/identities")
	page.has("No account at another service")
	link := regexp.MustCompile(`href="([^"]+)">Link an account at Office`).FindStringSubmatch(page.body)
	if link == nil {
		t.Fatal(page.body)
	}
	ask := b.follow(b.get(b.atFake(b.get(strings.ReplaceAll(link[1], "&amp;", "&")).header.Get("Location"))))
	page = b.follow(b.submit(ask))
	page.has("user@example.org", "Office", "Linked on")
	l.control("user link", obj{"user": "alice", "issuer": "ldap", "subject": "alice"}) // which removes the password
	b = l.browser()
	b.follow(b.get(b.atFake(b.begin(b.get(accountPage), "Office"))))
	p.Claims = map[string]any{"auth_time": time.Now().Unix()}
	page = b.follow(b.get(b.atFake(b.begin(b.get(accountPage+"/identities"), "Office"))))
	if strings.Count(page.body, `value="unlink"`) != 1 {
		t.Errorf("the user can remove the directory: %s", page.body)
	}
	if r := b.press(page, "unlink"); r.status != 403 || !strings.Contains(r.body, "only way") {
		t.Errorf("the last way to sign in: %d %s", r.status, r.body)
	}
	if r := b.press(page, "unlink", "issuer", "ldap", "subject", "alice"); r.status != 403 {
		t.Errorf("the directory: %d", r.status)
	}
	l.control("user passwd", obj{"user": "alice", "password": testserver.Password()})
	b, page = l.own(accountPage + "/identities")
	if r := b.press(page, "unlink", "subject", "somebody else's"); r.status != 404 {
		t.Errorf("an unknown identity: %d", r.status)
	}
	b.press(page, "unlink").has("can no longer sign you in")
	if ids := l.control("user identities", obj{"user": "alice"}); strings.Contains(ids, p.Issuer) {
		t.Error(ids)
	}
}

// upload sends the form for a picture.
func (b *browser) upload(page reply, step string, file []byte) reply {
	b.l.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	csrf := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(page.body)
	_ = w.WriteField("csrf", csrf[1]) // a buffer never fails
	_ = w.WriteField("step", step)
	part, _ := w.CreateFormFile("picture", "me.png")
	_, _ = part.Write(file)
	_ = w.Close()
	req, err := http.NewRequestWithContext(context.Background(), "POST", b.l.URL+accountPage+"/profile/picture", &body)
	if err != nil {
		b.l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", w.FormDataContentType())
	return b.follow(b.do(req))
}

func TestPictureIsUploadedAndRemoved(t *testing.T) {
	l := newLab(t)
	b, page := l.own(accountPage + "/profile")
	var file bytes.Buffer
	if err := png.Encode(&file, image.NewGray(image.Rect(0, 0, 200, 100))); err != nil {
		t.Fatal(err)
	}
	for problem, bad := range map[string][]byte{"Choose a file": nil, "not a PNG": []byte("<svg xmlns='http://www.w3.org/2000/svg'/>")} {
		if r := b.upload(page, "picture", bad); r.status != 400 || !strings.Contains(r.body, problem) {
			t.Errorf("%s: %d %s", problem, r.status, r.body)
		}
	}
	page = b.upload(page, "picture", file.Bytes())
	page.has("The picture is saved", `src="data:image/`)
	if csp := page.header.Get("Content-Security-Policy"); !strings.Contains(csp, "img-src data:") {
		t.Errorf("the browser does not show it: %s", csp)
	}
	avatar, _ := l.Anonymous().Do("GET", "/v3/profile/@alice:test", nil)["avatar_url"].(string)
	if !strings.HasPrefix(avatar, "mxc://test/") {
		t.Errorf("the picture is %q", avatar)
	}
	if r := b.upload(reply{t: t, body: `name="csrf" value="x"`}, "picture", file.Bytes()); r.status != 403 {
		t.Errorf("a form of another website: %d", r.status)
	}
	l.control("user suspend", obj{"user": "alice"})
	if r := b.upload(page, "remove", nil); r.status != 403 {
		t.Errorf("a suspended user: %d", r.status)
	}
	l.control("user unsuspend", obj{"user": "alice"})
	b.upload(page, "remove", nil)
	if got := l.Anonymous().Do("GET", "/v3/profile/@alice:test", nil)["avatar_url"]; got != nil {
		t.Errorf("the picture is still %v", got)
	}
	if r := l.browser().upload(page, "picture", file.Bytes()); !r.shows("password") {
		t.Errorf("a stranger: %d %s", r.status, r.body)
	}
	if r := b.get(accountPage + "/profile/picture"); r.header.Get("Location") != accountPage+"/profile" {
		t.Errorf("%d", r.status)
	}
}
