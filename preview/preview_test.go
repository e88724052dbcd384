package preview

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/ident"
	"ebb/media"
	"ebb/mxerr"
	"ebb/netguard"
	"ebb/secrets"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// web is a set of hosts, all served by one test server. public.test and other.test have public addresses, inside.test
// has a private one.
type web struct {
	t       *testing.T
	s       *Service
	db      *storage.DB
	media   *media.Service
	ms      atomic.Int64 // the time of the clock
	mux     *http.ServeMux
	address string
	inside  atomic.Int64 // number of connections to private addresses
	hits    sync.Map     // path → *atomic.Int64
}

func newWeb(t *testing.T, change func(*Options)) *web {
	t.Helper()
	w := &web{t: t, mux: http.NewServeMux()}
	w.ms.Store(1_750_000_000_000)
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, _ := w.hits.LoadOrStore(r.URL.Path, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		w.mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(site.Close)
	w.address = site.Listener.Addr().String()
	w.db = storagetest.Open(t, storage.Config{Now: w.now})
	ring, err := secrets.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	w.media, err = media.New(t.Context(), media.Options{DB: w.db, Dir: t.TempDir(), Secrets: ring, Key: []byte("key"), Workers: 1, Now: w.now, Log: log, TemporarySize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		DB: w.db, Media: w.media, Server: "here", Languages: "de-AT, en;q=0.5", Lifetime: time.Hour, MaxImage: 100 << 10, Timeout: 10 * time.Second, Now: w.now, Log: log,
		Client: netguard.NewClient(netguard.ClientOptions{
			Dialer: netguard.NewDialer(netguard.DialerOptions{Resolver: w, Dial: w.dial}), AllowHTTP: true, MaxBody: MaxPage + 1, MaxRedirects: 3,
		}),
	}
	if change != nil {
		change(&o)
	}
	w.s = New(o)
	return w
}

func (w *web) now() time.Time { return time.UnixMilli(w.ms.Load()) }

func (w *web) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	switch host {
	case "public.test":
		return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
	case "other.test":
		return []netip.Addr{netip.MustParseAddr("93.184.216.35")}, nil
	case "inside.test":
		return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
	}
	return nil, errors.New("no such host")
}

// dial connects to the test server in place of any address that was not refused before.
func (w *web) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !strings.HasPrefix(address, "93.184.216.") {
		w.inside.Add(1)
	}
	return new(net.Dialer).DialContext(ctx, network, w.address)
}

// page serves a page or another document.
func (w *web) page(path, contentType, body string) {
	w.mux.HandleFunc(path, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", contentType)
		_, _ = rw.Write([]byte(body))
	})
}

func (w *web) requests(path string) int64 {
	if n, ok := w.hits.Load(path); ok {
		return n.(*atomic.Int64).Load()
	}
	return 0
}

func picture(t *testing.T, width, height int) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewRGBA(image.Rect(0, 0, width, height))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const alice = ident.UserNID(1)

// preview returns the preview of a page below http://public.test.
func (w *web) preview(path string) (map[string]any, error) {
	w.t.Helper()
	raw, err := w.s.Preview(w.t.Context(), alice, "http://public.test"+path, w.now())
	if err != nil {
		return nil, err
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		w.t.Fatal(err)
	}
	return out, nil
}

func (w *web) must(path string) map[string]any {
	w.t.Helper()
	out, err := w.preview(path)
	if err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	return out
}

func TestPageIsPreviewedWithItsImage(t *testing.T) {
	w := newWeb(t, nil)
	w.page("/a/page", "text/html; charset=utf-8", `<html><head><base href="/images/"><title>Not this</title>
		<meta property="og:title" content="  A
		title &amp; more "><meta property="og:type" content="article"><meta property="og:title" content="second">
		<meta name="description" content="What it says"><meta property="og:url" content="http://elsewhere.test/x"><meta property="og:video:url" content="http://elsewhere.test/v">
		<meta property="og:image" content="pic.png"><meta property="og:image:width" content="9999"></head>`)
	w.page("/images/pic.png", "image/png", picture(t, 30, 20))
	out := w.must("/a/page")
	for key, want := range map[string]any{
		"og:title": "A title & more", "og:type": "article", "og:description": "What it says", "og:url": "http://elsewhere.test/x", "og:video:url": nil,
		"og:image:width": 30.0, "og:image:height": 20.0, "og:image:type": "image/png", "matrix:image:size": float64(len(picture(t, 30, 20))),
	} {
		if out[key] != want {
			t.Errorf("%s is %v, want %v", key, out[key], want)
		}
	}
	id, ours := strings.CutPrefix(fmt.Sprint(out["og:image"]), "mxc://here/")
	f, err := w.media.Open(t.Context(), id, 0)
	if !ours || err != nil {
		t.Fatalf("the image is %v: %v", out["og:image"], err)
	}
	_ = f.Close()
}

func TestPageWithoutOpenGraphIsPreviewedFromOtherMetadata(t *testing.T) {
	w := newWeb(t, nil)
	for path, c := range map[string]struct{ html, title, description string }{
		"/twitter":    {`<title>t</title><meta name="twitter:title" content="T"><meta name="twitter:description" content="D">`, "T", "D"},
		"/title":      {`<title>Only a title</title>`, "Only a title", ""},
		"/paragraphs": {`<title>t</title><script>var p = "<p>no</p>"</script><style>p{}</style><p>One <b>bold</b> word.<script>x</script><p>Two.</p><div>not this</div>`, "t", "One bold word. Two."},
		"/itemprop":   {`<title>t</title><meta itemprop="description" content="Item">`, "t", "Item"},
	} {
		w.page(path, "text/html", c.html)
		out := w.must(path)
		if out["og:title"] != c.title || (out["og:description"] != c.description && c.description != "") {
			t.Errorf("%s: %v", path, out)
		}
	}
	w.page("/empty", "text/html", "")
	if _, err := w.preview("/empty"); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("an empty page: %v", err)
	}
	w.page("/report.pdf", "application/pdf", "%PDF")
	if out := w.must("/report.pdf"); out["og:title"] != "report.pdf" || len(out) != 1 {
		t.Errorf("a document: %v", out)
	}
	w.page("/pic.png", "image/png", picture(t, 3, 2))
	if out := w.must("/pic.png"); out["og:title"] != "pic.png" || out["og:image:width"] != 3.0 {
		t.Errorf("an image: %v", out)
	}
}

func TestEncodingsAreDetected(t *testing.T) {
	w := newWeb(t, nil)
	w.page("/header", "text/html; charset=windows-1251", "<title>\xcf\xf0\xe8\xe2\xe5\xf2</title>")
	w.page("/meta", "text/html", "<meta charset=shift_jis><title>\x93\xfa\x96\x7b</title>")
	w.page("/bom", "text/html", "\xff\xfe<\x00t\x00i\x00t\x00l\x00e\x00>\x00x\x00<\x00/\x00t\x00i\x00t\x00l\x00e\x00>\x00")
	w.page("/wrong", "text/html; charset=utf-8", "<title>a\xff\x00b</title>")
	for path, want := range map[string]string{"/header": "Привет", "/meta": "日本", "/bom": "x", "/wrong": "a\ufffd\ufffdb"} {
		if out := w.must(path); out["og:title"] != want {
			t.Errorf("%s: %q, want %q", path, out["og:title"], want)
		}
	}
}

func TestOEmbedDocumentAddsWhatThePageLacks(t *testing.T) {
	w := newWeb(t, nil)
	const link = `<link rel="alternate" type="application/json+oembed" href="/oembed?url=%s">`
	w.page("/video", "text/html", fmt.Sprintf(link, "v")+`<meta property="og:title" content="Own title">`)
	w.page("/post", "text/html", fmt.Sprintf(link, "p"))
	w.page("/pic.png", "image/png", picture(t, 5, 5))
	w.mux.HandleFunc("/oembed", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("url") == "v" {
			_, _ = rw.Write([]byte(`{"type":"video","version":"1.0","title":"Other","provider_name":"Tube","thumbnail_url":"/pic.png","html":"<p>ignored</p>"}`))
			return
		}
		_, _ = rw.Write([]byte(`{"type":"rich","version":"1.0","author_name":"Bob","html":"<blockquote><p>Hello <b>there</b></p></blockquote>"}`))
	})
	if out := w.must("/video"); out["og:title"] != "Own title" || out["og:site_name"] != "Tube" || out["og:image:width"] != 5.0 || out["og:description"] != nil {
		t.Errorf("%v", out)
	}
	if out := w.must("/post"); out["og:title"] != "Bob" || out["og:description"] != "Hello there" {
		t.Errorf("%v", out)
	}
}

func TestNothingIsFetchedFromPrivateAddresses(t *testing.T) {
	w := newWeb(t, nil)
	w.mux.HandleFunc("/redirect", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "http://inside.test/secret", http.StatusFound)
	})
	w.page("/secret", "text/html", "<title>secret</title>")
	w.page("/image", "text/html", `<title>t</title><meta property="og:image" content="http://inside.test/pic.png">`)
	w.page("/literal", "text/html", `<title>t</title><meta property="og:image" content="http://[::1]/pic.png"><link rel="alternate" type="application/json+oembed" href="http://127.0.0.1/oembed">`)
	w.page("/file", "text/html", `<title>t</title><meta property="og:image" content="file:///etc/passwd">`)
	w.page("/pic.png", "image/png", picture(t, 5, 5))
	if _, err := w.preview("/redirect"); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("a redirect inside: %v", err)
	}
	for _, path := range []string{"/image", "/literal", "/file"} {
		if out := w.must(path); out["og:title"] != "t" || out["og:image"] != nil {
			t.Errorf("%s: %v", path, out)
		}
	}
	for _, link := range []string{"http://inside.test/secret", "http://127.0.0.1/secret", "http://[::ffff:127.0.0.1]/", "http://2130706433/", "http://0x7f000001/"} {
		if _, err := w.s.Preview(t.Context(), alice, link, w.now()); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Errorf("%s: %v", link, err)
		}
	}
	if n := w.inside.Load(); n != 0 {
		t.Errorf("%d connections to private addresses", n)
	}
}

func TestOnlyHTTPURLsArePreviewed(t *testing.T) {
	w := newWeb(t, nil)
	for _, link := range []string{"ftp://public.test/", "file:///etc/passwd", "javascript:alert(1)", "public.test", "http://", "http://user:password@public.test/", "http://public.test/" + strings.Repeat("x", 2048), "http://%zz/", "data:text/html,x"} {
		if _, err := w.s.Preview(t.Context(), alice, link, w.now()); mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("%.60s: %v", link, err)
		}
	}
	if _, err := w.s.Preview(t.Context(), alice, "", w.now()); mxerr.Code(err) != mxerr.CodeMissingParam {
		t.Errorf("no url: %v", err)
	}
}

func TestHostRestrictionsApplyToEveryRequest(t *testing.T) {
	w := newWeb(t, func(o *Options) { o.Allowed = func(host string) bool { return host == "public.test" } })
	w.mux.HandleFunc("/redirect", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "http://other.test/page", http.StatusFound)
	})
	w.page("/page", "text/html", `<title>t</title><meta property="og:image" content="http://other.test/pic.png">`)
	w.page("/pic.png", "image/png", picture(t, 5, 5))
	if _, err := w.s.Preview(t.Context(), alice, "http://other.test/page", w.now()); mxerr.Code(err) != mxerr.CodeForbidden {
		t.Errorf("another host: %v", err)
	}
	if _, err := w.preview("/redirect"); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("a redirect to another host: %v", err)
	}
	if out := w.must("/page"); out["og:image"] != nil || w.requests("/pic.png") != 0 {
		t.Errorf("an image of another host: %v", out)
	}
}

func TestHostileSitesAreBounded(t *testing.T) {
	w := newWeb(t, func(o *Options) { o.Timeout = 2 * time.Second })
	var sent atomic.Int64
	endless := func(contentType, start, chunk string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", contentType)
			_, _ = rw.Write([]byte(start))
			for text := []byte(strings.Repeat(chunk, 1000)); ; {
				n, err := rw.Write(text)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 20<<20))
	_ = z.Close()
	w.mux.HandleFunc("/endless", endless("text/html", "<title>endless</title>", "<div>"))
	w.mux.HandleFunc("/endless-tag", endless("text/html", "<title>t</title><meta ", "x=y "))
	w.mux.HandleFunc("/endless.png", endless("image/png", picture(t, 5, 5), "\x00"))
	w.mux.HandleFunc("/loop", func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/loop", http.StatusFound) })
	w.mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w.mux.HandleFunc("/header", func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("X", strings.Repeat("x", 1<<20)) })
	w.mux.HandleFunc("/bomb", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		rw.Header().Set("Content-Encoding", "gzip")
		_, _ = rw.Write(bomb.Bytes())
	})
	w.page("/with-endless-image", "text/html", `<title>t</title><meta property="og:image" content="/endless.png">`)
	w.page("/with-svg", "text/html", `<title>t</title><meta property="og:image" content="/x.svg">`)
	w.page("/x.svg", "image/svg+xml", `<svg xmlns="http://www.w3.org/2000/svg"/>`)
	w.page("/with-lie", "text/html", `<title>t</title><meta property="og:image" content="/lie.png">`)
	w.page("/lie.png", "image/png", "<script>alert(1)</script>")
	w.page("/itself", "text/html", `<title>t</title><meta property="og:image" content="/itself"><link rel="alternate" type="application/json+oembed" href="/itself">`)
	w.page("/deep", "text/html", "<title>t</title>"+strings.Repeat("<div><p>", 100_000))
	w.page("/many", "text/html", "<title>t</title>"+strings.Repeat(`<meta property="og:x" content="`+strings.Repeat("y", 5000)+`">`, 100))
	for path, title := range map[string]any{
		"/endless": "endless", "/endless-tag": "t", "/endless.png": nil, "/loop": nil, "/hang": nil, "/header": nil, "/bomb": nil, "/with-endless-image": "t",
		"/with-svg": "t", "/with-lie": "t", "/itself": "t", "/deep": "t", "/many": "t",
	} {
		out, err := w.preview(path)
		if title == nil && mxerr.Code(err) != mxerr.CodeNotFound || title != nil && (err != nil || out["og:title"] != title || out["og:image"] != nil) {
			t.Errorf("%s: %v, %v", path, out, err)
		}
		if raw, _ := json.Marshal(out); len(raw) > 10_000 {
			t.Errorf("%s: a preview of %d bytes", path, len(raw))
		}
	}
	if n := sent.Load(); n > 40<<20 { // what may be read, and the buffers of the system
		t.Errorf("endless responses could send %d bytes", n)
	}
	if n := w.requests("/itself"); n != 3 { // the page, its oEmbed document and its image
		t.Errorf("a page that names itself was fetched %d times", n)
	}
}

func TestPreviewsAreCachedAndExpireWithTheirImages(t *testing.T) {
	w := newWeb(t, nil)
	version := "first"
	w.mux.HandleFunc("/page", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<title>%s</title><meta property="og:image" content="/pic.png">`, version)
		if got := r.Header.Get("Accept-Language"); got != "de-AT, en;q=0.5" {
			t.Errorf("Accept-Language is %q", got)
		}
	})
	w.page("/pic.png", "image/png", picture(t, 5, 5))
	out := w.must("/page")
	id := strings.TrimPrefix(out["og:image"].(string), "mxc://here/")
	w.ms.Add(time.Hour.Milliseconds() - 1)
	if out = w.must("/page#fragment"); out["og:title"] != "first" || w.requests("/page") != 1 {
		t.Errorf("%v after %d requests", out, w.requests("/page"))
	}
	w.ms.Add(1)
	version = "second"
	if out = w.must("/page"); out["og:title"] != "second" || w.requests("/page") != 2 {
		t.Errorf("%v after %d requests", out, w.requests("/page"))
	}
	raw, err := w.s.Preview(t.Context(), alice, "http://public.test/page", w.now().Add(-time.Hour))
	// The first one has been deleted, so a newer one is returned.
	if err != nil || !strings.Contains(string(raw), "second") || w.requests("/page") != 2 {
		t.Errorf("an older time: %s, %v after %d requests", raw, err, w.requests("/page"))
	}
	w.ms.Add((24 * time.Hour).Milliseconds())
	if err := w.media.PruneTemporary(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, err := w.media.Open(t.Context(), id, 0); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("the image is kept: %v, %v", f, err)
	}
}

func TestPageWithoutPreviewIsNotFetchedAgainAtOnce(t *testing.T) {
	w := newWeb(t, nil)
	for range 3 {
		if _, err := w.preview("/missing"); mxerr.Code(err) != mxerr.CodeNotFound {
			t.Fatal(err)
		}
	}
	if n := w.requests("/missing"); n != 1 {
		t.Errorf("%d requests", n)
	}
	w.ms.Add(failureTime.Milliseconds())
	_, _ = w.preview("/missing")
	if n := w.requests("/missing"); n != 2 {
		t.Errorf("%d requests after a while", n)
	}
}

func TestTotalSizeOfPreviewImagesIsBounded(t *testing.T) {
	w := newWeb(t, nil)
	noise := func(seed int) string { // incompressible, 90 KB
		img := image.NewGray(image.Rect(0, 0, 300, 300))
		_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(img.Pix)
		var b bytes.Buffer
		_ = png.Encode(&b, img)
		return b.String()
	}
	var first string
	size := 0
	for i := range 40 {
		path := fmt.Sprintf("/%d.png", i)
		body := noise(i + 1)
		size += len(body)
		w.page(path, "image/png", body)
		out := w.must(path)
		if i == 0 {
			first = strings.TrimPrefix(out["og:image"].(string), "mxc://here/")
		}
		w.ms.Add(1000)
	}
	if size < 2<<20 {
		t.Fatalf("the images have only %d bytes", size)
	}
	var kept int64
	err := w.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
		kept, err = tx.ExpiringMediaSize()
		return err
	})
	if err != nil || kept > 1<<20 || kept < 1<<19 {
		t.Errorf("%d bytes are kept: %v", kept, err)
	}
	if _, err := w.media.Open(t.Context(), first, 0); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("the oldest image is kept: %v", err)
	}
}

func TestRequestsForOnePageShareOneFetchAndUsersAreBounded(t *testing.T) {
	w := newWeb(t, nil)
	release := make(chan struct{})
	w.mux.HandleFunc("/slow", func(rw http.ResponseWriter, _ *http.Request) {
		<-release
		rw.Header().Set("Content-Type", "text/html")
		_, _ = rw.Write([]byte("<title>slow</title>"))
	})
	var group sync.WaitGroup
	var busy, good atomic.Int64
	ask := func(user ident.UserNID, path string) {
		group.Go(func() {
			_, err := w.s.Preview(t.Context(), user, "http://public.test/slow?"+url.QueryEscape(path), w.now())
			switch {
			case mxerr.Code(err) == mxerr.CodeLimitExceeded:
				if busy.Add(1) == 5 {
					close(release)
				}
			case err == nil:
				good.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	for range maxUserWaiting + 5 {
		ask(alice, "same")
	}
	group.Wait()
	if busy.Load() != 5 || good.Load() != maxUserWaiting || w.requests("/slow") != 1 {
		t.Errorf("%d refused, %d answered, %d requests", busy.Load(), good.Load(), w.requests("/slow"))
	}
}
