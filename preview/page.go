package preview

import (
	"io"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
)

const (
	maxText       = 1000     // bytes in one property of a preview
	maxProperties = 40       // properties of a page
	maxToken      = 64 << 10 // bytes in one tag or text
	maxParagraphs = 500      // bytes of text that stand in for a missing description
)

// page collects the metadata of an HTML page.
type page struct {
	og         map[string]string // Open Graph properties
	meta       map[string]string // other properties, such as twitter:title and description
	title      string            // from the title element
	base       string            // from the base element
	oEmbed     string            // address of an oEmbed document
	imageSrc   string            // from a link with rel=image_src
	paragraphs strings.Builder
}

// readPage reads as much of a page as it can. It makes a single pass over the tokens, so that deep nesting and unclosed
// elements cost no more than their bytes.
func readPage(r io.Reader) page {
	p := page{og: map[string]string{}, meta: map[string]string{}}
	z := html.NewTokenizer(r)
	z.SetMaxBuf(maxToken)
	element := "" // the element whose text is being read
	for {
		switch z.Next() {
		case html.ErrorToken: // also returned for a token larger than maxToken
			return p
		case html.StartTagToken, html.SelfClosingTagToken:
			element = p.open(z, element)
		case html.EndTagToken:
			if name, _ := z.TagName(); string(name) == element || isBlock(string(name)) {
				element = ""
			}
		case html.TextToken:
			p.addText(element, string(z.Text()))
		}
	}
}

// open handles a start tag and returns the element to which the text that follows belongs.
func (p *page) open(z *html.Tokenizer, element string) string {
	raw, more := z.TagName()
	name := string(raw)
	attributes := map[string]string{}
	for more {
		var key, value []byte
		key, value, more = z.TagAttr()
		if k := string(key); attributes[k] == "" {
			attributes[k] = strings.TrimSpace(string(value))
		}
	}
	switch name {
	case "meta":
		p.property(attributes)
	case "base":
		if p.base == "" {
			p.base = attributes["href"]
		}
	case "link":
		p.link(attributes)
	case "title", "p", "script", "style", "noscript":
		return name
	}
	if isBlock(name) {
		return ""
	}
	return element
}

func isBlock(name string) bool {
	switch name {
	case "p", "div", "body", "head", "article", "section", "main", "nav", "header", "footer", "ul", "ol", "li", "table", "h1", "h2", "h3", "title", "script", "style", "noscript":
		return true
	}
	return false
}

func (p *page) link(attributes map[string]string) {
	rel := strings.ToLower(attributes["rel"])
	switch {
	case rel == "alternate" && strings.EqualFold(attributes["type"], "application/json+oembed") && p.oEmbed == "":
		p.oEmbed = attributes["href"]
	case rel == "image_src" && p.imageSrc == "":
		p.imageSrc = attributes["href"]
	}
}

var propertyName = regexp.MustCompile(`^og:[a-z0-9_:]{1,60}$`)

// property records a meta element. If a property has several values, the first one counts.
func (p *page) property(attributes map[string]string) {
	for _, attribute := range []string{"property", "name", "itemprop"} {
		key := strings.ToLower(attributes[attribute])
		value := cleanFor(key, attributes["content"])
		switch {
		case value == "" || key == "":
		case propertyName.MatchString(key):
			if p.og[key] == "" && len(p.og) < maxProperties {
				p.og[key] = value
			}
		case key == "twitter:title" || key == "twitter:description" || key == "twitter:image" || key == "twitter:image:src" || key == "description" || key == "image":
			if p.meta[key] == "" {
				p.meta[key] = value
			}
		}
	}
}

func (p *page) addText(element, text string) {
	switch element {
	case "title":
		if p.title == "" {
			p.title = clean(text)
		}
	case "p":
		if p.paragraphs.Len() < maxParagraphs {
			p.paragraphs.WriteString(text + " ")
		}
	}
}

// text returns the text of the first paragraphs, as a description.
func (p *page) text() string { return cut(clean(p.paragraphs.String()), maxParagraphs) }

// fallback sets a property if the page does not have it.
func (p *page) fallback(key, value string) {
	if p.og[key] == "" && value != "" {
		p.og[key] = cleanFor(key, value)
	}
}

// image returns the address of the page's image, or "" if there is none.
func (p *page) image() string {
	for _, address := range []string{p.og["og:image:secure_url"], p.og["og:image"], p.og["og:image:url"], p.meta["twitter:image"], p.meta["twitter:image:src"], p.imageSrc, p.meta["image"]} {
		if address != "" && !strings.HasPrefix(address, "data:") {
			return address
		}
	}
	return ""
}

// answer returns the properties of a preview without its image. It leaves out the addresses of other media, because
// clients would load them directly from their hosts.
func (p *page) answer() map[string]any {
	for _, value := range []string{p.meta["twitter:title"], p.title} {
		p.fallback("og:title", value)
	}
	for _, value := range []string{p.meta["twitter:description"], p.meta["description"], p.text()} {
		p.fallback("og:description", value)
	}
	out := map[string]any{}
	for key, value := range p.og {
		switch {
		case strings.HasPrefix(key, "og:image"), strings.HasPrefix(key, "og:video"), strings.HasPrefix(key, "og:audio"):
		case key == "og:url" && !isWeb(value):
		default:
			out[key] = value
		}
	}
	return out
}

func isWeb(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// cleanFor returns a value for a property, within its bound. An address that is too long is left out, not truncated.
func cleanFor(key, value string) string {
	if !strings.Contains(key, "image") && !strings.HasSuffix(key, "url") {
		return clean(value)
	}
	if value = strings.TrimSpace(value); len(value) > maxURL || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		return ""
	}
	return value
}

// clean returns a text as a single line within maxText.
func clean(text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(strings.ToValidUTF8(text, "\ufffd"), "\x00", "")), " ")
	return cut(text, maxText)
}

// cut truncates a text to at most limit bytes.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	end := limit - len("…")
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
