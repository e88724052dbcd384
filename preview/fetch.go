package preview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html/charset"

	"ebb/media"
)

// MaxPage bounds how many bytes of a page are read. The parts that describe a page are at its beginning.
const MaxPage = 1 << 20

const (
	maxOEmbed = 256 << 10 // bytes in an oEmbed document
	userAgent = "Ebb (bot; link previews of a Matrix server)"
)

// hostGuard refuses requests, including those that follow a redirect, to hosts that the configuration excludes.
type hostGuard struct {
	next    http.RoundTripper
	allowed func(host string) bool
}

// RoundTrip implements http.RoundTripper.
func (g hostGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if !g.allowed(r.URL.Hostname()) {
		return nil, fmt.Errorf("%w: %s", errHost, r.URL.Hostname())
	}
	return g.next.RoundTrip(r)
}

var errStatus = errors.New("the response is not 2xx")

// get requests a document. The caller closes the body.
func (s *Service) get(ctx context.Context, address, accept string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", "identity") // the body is read as it is, without decompression
	r.Header.Set("User-Agent", userAgent)
	if s.opts.Languages != "" {
		r.Header.Set("Accept-Language", s.opts.Languages)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 || resp.Header.Get("Content-Encoding") != "" {
		_ = resp.Body.Close() // the body is not needed
		return nil, fmt.Errorf("%w: %s", errStatus, resp.Status)
	}
	return resp, nil
}

// mediaType returns the media type of a response without its parameters.
func mediaType(resp *http.Response) string {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// fetch fetches a page and makes its preview.
func (s *Service) fetch(ctx context.Context, u *url.URL) (json.RawMessage, error) {
	resp, err := s.get(ctx, u.String(), "text/html,application/xhtml+xml;q=0.9,image/*;q=0.8,*/*;q=0.5")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // the body was only read
	kind, final := mediaType(resp), resp.Request.URL
	name := path.Base(final.Path)
	switch {
	case kind == "text/html" || kind == "application/xhtml+xml":
		return s.previewOfPage(ctx, resp)
	case strings.HasPrefix(kind, "image/"):
		out := map[string]any{"og:title": name}
		err := s.setImage(ctx, out, resp)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	case name == "." || name == "/":
		return nil, fmt.Errorf("unsupported document type %q", kind)
	}
	return json.Marshal(map[string]any{"og:title": cut(name, maxText)})
}

// previewOfPage makes the preview of an HTML page.
func (s *Service) previewOfPage(ctx context.Context, resp *http.Response) (json.RawMessage, error) {
	text, err := charset.NewReader(io.LimitReader(resp.Body, MaxPage), resp.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("detect the encoding: %w", err)
	}
	p := readPage(text)
	base := resp.Request.URL
	if p.base != "" {
		if at, err := base.Parse(p.base); err == nil {
			base = at
		}
	}
	if p.oEmbed != "" && (p.og["og:title"] == "" || p.image() == "") {
		if err := s.addOEmbed(ctx, &p, base); err != nil {
			s.opts.Log.DebugContext(ctx, "no oEmbed document", "host", base.Host, "err", err)
		}
	}
	out := p.answer()
	if err := s.addImage(ctx, out, base, p.image()); err != nil {
		s.opts.Log.DebugContext(ctx, "no image in a link preview", "host", base.Host, "err", err)
	}
	if len(out) == 0 {
		return nil, errors.New("the page has no metadata")
	}
	return json.Marshal(out)
}

// oEmbed holds the members of an oEmbed document that are used (oembed.com, section 2.3.4).
type oEmbed struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Author    string `json:"author_name"`
	Provider  string `json:"provider_name"`
	Thumbnail string `json:"thumbnail_url"`
	URL       string `json:"url"` // set in documents of type photo
	HTML      string `json:"html"`
}

// addOEmbed fetches the oEmbed document that a page links to, and adds properties that the page itself lacks.
func (s *Service) addOEmbed(ctx context.Context, p *page, base *url.URL) error {
	at, err := base.Parse(p.oEmbed)
	if err != nil {
		return err
	}
	resp, err := s.get(ctx, at.String(), "application/json")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // the body was only read
	if kind := mediaType(resp); kind != "application/json" && kind != "application/json+oembed" && kind != "text/javascript" {
		return fmt.Errorf("unsupported type of oEmbed document %q", kind)
	}
	var doc oEmbed
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxOEmbed)).Decode(&doc); err != nil {
		return err
	}
	p.fallback("og:title", doc.Title)
	p.fallback("og:title", doc.Author)
	p.fallback("og:site_name", doc.Provider)
	if doc.Type == "rich" {
		embedded := readPage(strings.NewReader(doc.HTML))
		p.fallback("og:description", embedded.text())
	}
	if doc.Type == "photo" {
		p.fallback("og:image", doc.URL)
	}
	p.fallback("og:image", doc.Thumbnail)
	return nil
}

// addImage fetches the image that a page names and adds it to the preview.
func (s *Service) addImage(ctx context.Context, out map[string]any, base *url.URL, address string) error {
	if address == "" {
		return nil
	}
	at, err := base.Parse(address)
	if err != nil {
		return err
	}
	resp, err := s.get(ctx, at.String(), "image/png,image/jpeg,image/gif,image/webp")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // the body was only read
	if kind := mediaType(resp); !strings.HasPrefix(kind, "image/") {
		return fmt.Errorf("unsupported image type %q", kind)
	}
	return s.setImage(ctx, out, resp)
}

// setImage stores the image in a response and adds its address to the preview.
func (s *Service) setImage(ctx context.Context, out map[string]any, resp *http.Response) error {
	if resp.ContentLength > s.opts.MaxImage {
		return media.ErrNoImage
	}
	img, err := s.opts.Media.AddImage(ctx, resp.Body, s.opts.MaxImage, s.opts.Now().Add(s.opts.Lifetime+imageGrace))
	if err != nil {
		return err
	}
	out["og:image"] = "mxc://" + s.opts.Server + "/" + img.ID
	out["og:image:type"], out["matrix:image:size"] = img.ContentType, img.Size
	out["og:image:width"], out["og:image:height"] = img.Width, img.Height
	return nil
}
