package media

import (
	"mime"
	"net/http"
	"strings"
)

// inlineTypes are the types that browsers may display inline. Everything else is served as a download.
// Spec: client-server-api#serving-inline-content
var inlineTypes = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true,
	"audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// maxContentType bounds the stored content type and maxFilename the stored file name, in bytes.
const (
	maxContentType = 255
	maxFilename    = 255
)

// contentType reduces the content type claimed by an uploader to a media type that is safe in a header.
func contentType(claimed string) string {
	typ, params, err := mime.ParseMediaType(claimed)
	if err != nil || !strings.Contains(typ, "/") {
		return "application/octet-stream"
	}
	full := mime.FormatMediaType(typ, params)
	if full == "" || len(full) > maxContentType {
		return "application/octet-stream"
	}
	return full
}

// inline reports whether a file of this stored type may be displayed inline.
func inline(contentType string) bool {
	typ, _, err := mime.ParseMediaType(contentType)
	return err == nil && inlineTypes[typ]
}

// Disposition returns the Content-Disposition header for a file of the given type and name, either of which may be
// empty. A name with non-ASCII characters becomes a filename* as in RFC 5987, with %20 for a space.
func Disposition(contentType, filename string) string {
	kind := "attachment"
	if inline(contentType) {
		kind = "inline"
	}
	if filename == "" {
		return kind
	}
	if isToken(filename) {
		return kind + "; filename=" + filename
	}
	if isQuotable(filename) {
		return kind + `; filename="` + filename + `"`
	}
	return kind + "; filename*=utf-8''" + percentEncode(filename)
}

// cleanFilename makes a name safe for headers and file dialogues. It removes control characters and directories, and
// bounds the length.
func cleanFilename(name string) string {
	name = strings.ToValidUTF8(name, "\uFFFD")
	name = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return -1
		}
		return r
	}, name)
	for len(name) > maxFilename {
		cut := maxFilename
		for cut > 0 && name[cut]&0xC0 == 0x80 {
			cut--
		}
		name = name[:cut]
	}
	return name
}

func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAttrChar(c) {
			return false
		}
	}
	return s != ""
}

func isQuotable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// isAttrChar reports whether c is an attr-char of RFC 5987 section 3.2.1.
func isAttrChar(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$&+-.^_`|~", c) >= 0
}

func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isAttrChar(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// sniff returns the image format that the first bytes of a file show, whatever its uploader claimed. Thumbnails are
// made only of these four formats.
func sniff(head []byte) (format string, ok bool) {
	switch sniffType(head) {
	case "image/png":
		return "png", true
	case "image/jpeg":
		return "jpeg", true
	case "image/gif":
		return "gif", true
	case "image/webp":
		return "webp", true
	}
	return "", false
}

// imageBrands are the brands of ISO media files that contain a single AVIF or HEIF image. Brands of image sequences are
// not included.
var imageBrands = map[string]string{"avif": "image/avif", "mif1": "image/heif", "heic": "image/heic", "heix": "image/heic"}

// sniffType returns the media type indicated by the first bytes of a file.
func sniffType(head []byte) string {
	if len(head) >= 12 && string(head[4:8]) == "ftyp" {
		if t, ok := imageBrands[string(head[8:12])]; ok {
			return t
		}
	}
	return http.DetectContentType(head)
}
