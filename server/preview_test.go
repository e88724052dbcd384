package server_test

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

func TestLinksArePreviewedIfConfigured(t *testing.T) {
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 40, 30))); err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pic.png" {
			w.Header().Set("Content-Type", "image/png")
			_, _ = w.Write(picture.Bytes())
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<meta property="og:title" content="A page"><meta property="og:image" content="/pic.png">`)
	}))
	defer site.Close()
	s := testserver.New(t, func(c *config.Config) {
		c.Media.URLPreviews.Enabled, c.Media.URLPreviews.AllowPrivateAddresses = true, true
	})
	alice := s.Register("alice")
	if can := get(alice.Do("GET", "/v3/capabilities", nil), "capabilities", "io.element.msc4452.preview_url", "enabled"); can != true {
		t.Errorf("the capability is %v", can)
	}
	ask := "?url=" + url.QueryEscape(site.URL+"/page")
	for _, path := range []string{"/v1/media/preview_url", "/_matrix/media/v3/preview_url", "/_matrix/media/r0/preview_url"} {
		out := alice.Do("GET", path+ask+"&ts=1510610716656", nil)
		if out["og:title"] != "A page" || out["og:image:width"] != 40.0 || out["matrix:image:size"] != float64(picture.Len()) {
			t.Errorf("%s: %v", path, out)
		}
		_, header, body := alice.Raw("GET", "/v1/media/download/"+strings.TrimPrefix(fmt.Sprint(out["og:image"]), "mxc://"), nil)
		if !bytes.Equal(body, picture.Bytes()) || header.Get("Content-Type") != "image/png" {
			t.Errorf("%s: the image is %v with %d bytes", path, header, len(body))
		}
		s.Anonymous().Refused("GET", path+ask, nil, 401, "M_MISSING_TOKEN")
	}
	alice.Refused("GET", "/v1/media/preview_url", nil, 400, "M_MISSING_PARAM")
	alice.Refused("GET", "/v1/media/preview_url?url=x", nil, 400, "M_INVALID_PARAM")
	alice.Refused("GET", "/v1/media/preview_url"+ask+"&ts=x", nil, 400, "M_INVALID_PARAM")
	if found := s.FilesWith(site.URL + "/page"); len(found) != 0 {
		t.Errorf("the address of the page is stored in %v", found)
	}
}

func TestPreviewsAreOffByDefaultAndNeverOfPrivateAddresses(t *testing.T) {
	requests := 0
	site := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests++ }))
	defer site.Close()
	ask := "/v1/media/preview_url?url=" + url.QueryEscape(site.URL)
	off := testserver.New(t, nil).Register("alice")
	off.Refused("GET", ask, nil, 403, "M_FORBIDDEN")
	if can := get(off.Do("GET", "/v3/capabilities", nil), "capabilities", "io.element.msc4452.preview_url", "enabled"); can != false {
		t.Errorf("the capability is %v", can)
	}
	on := testserver.New(t, func(c *config.Config) { c.Media.URLPreviews.Enabled = true }).Register("alice")
	on.Refused("GET", ask, nil, 404, "M_NOT_FOUND")
	if requests != 0 {
		t.Errorf("the site got %d requests", requests)
	}
}
