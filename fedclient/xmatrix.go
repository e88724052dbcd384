package fedclient

import (
	"errors"
	"strings"

	"ebb/canonjson"
)

// XMatrix is the content of a federation Authorization header.
// Spec: server-server-api#request-authentication
type XMatrix struct {
	Origin, Destination string // Destination is empty if the header has none; the signed text always contains it
	Key                 string // ed25519:…
	Signature           string
}

const scheme = "X-Matrix"

// String returns the header's value.
func (x XMatrix) String() string {
	var b strings.Builder
	b.WriteString(scheme)
	for i, p := range x.parameters() {
		if *p.value == "" {
			continue
		}
		b.WriteString([]string{" ", ",", ",", ","}[i])
		b.WriteString(p.name + `="`)
		_, _ = quoter.WriteString(&b, *p.value) // writing to a Builder does not fail
		b.WriteByte('"')
	}
	return b.String()
}

var quoter = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

type parameter struct {
	name  string
	value *string
}

// parameters returns the known parameters, origin first. ParseXMatrix ignores others, since later versions of the
// specification may add some.
func (x *XMatrix) parameters() [4]parameter {
	return [4]parameter{{"origin", &x.Origin}, {"destination", &x.Destination}, {"key", &x.Key}, {"sig", &x.Signature}}
}

// maxAuthHeader bounds a header that is parsed, in bytes. Names have up to 255 bytes, and signatures 86.
const maxAuthHeader = 2048

var errNoXMatrix = errors.New("the Authorization header is not X-Matrix with origin, key and sig")

// ParseXMatrix parses an Authorization header. Its parameters are separated by commas, may come in any order, and may
// have quoted values.
func ParseXMatrix(header string) (x XMatrix, err error) {
	name, rest, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(name, scheme) || len(header) > maxAuthHeader {
		return x, errNoXMatrix
	}
	for rest != "" {
		var key, value string
		if key, value, rest, err = nextParameter(rest); err != nil {
			return x, err
		}
		for _, p := range x.parameters() {
			switch {
			case !strings.EqualFold(key, p.name):
			case *p.value != "":
				return x, errNoXMatrix // a repeated parameter is ambiguous
			default:
				*p.value = value
			}
		}
	}
	if x.Origin == "" || x.Key == "" || x.Signature == "" {
		return x, errNoXMatrix
	}
	return x, nil
}

// nextParameter parses name=value at the start of text.
func nextParameter(text string) (name, value, rest string, err error) {
	name, rest, found := strings.Cut(text, "=")
	if name = strings.Trim(name, " \t"); !found || name == "" {
		return "", "", "", errNoXMatrix
	}
	if rest = strings.TrimLeft(rest, " \t"); !strings.HasPrefix(rest, `"`) {
		value, rest, _ = strings.Cut(rest, ",")
		return name, strings.Trim(value, " \t"), strings.TrimLeft(rest, " \t"), nil
	}
	value, rest, found = unquote(rest[1:])
	rest = strings.TrimLeft(rest, " \t")
	if !found || rest != "" && !strings.HasPrefix(rest, ",") {
		return "", "", "", errNoXMatrix
	}
	return name, value, strings.TrimLeft(strings.TrimPrefix(rest, ","), " \t"), nil
}

// unquote returns the text up to the closing quote, with backslash escapes removed.
func unquote(text string) (value, rest string, found bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), text[i+1:], true
		case '\\':
			if i++; i == len(text) {
				return "", "", false
			}
		}
		b.WriteByte(text[i])
	}
	return "", "", false
}

// signedText returns the JSON that a request's signature covers. If check is not nil, it is called at intervals, and
// its error aborts the work.
func signedText(method, uri, origin, destination string, body []byte, check func() error) ([]byte, error) {
	b := append(make([]byte, 0, len(body)+512), '{')
	if len(body) > 0 {
		var err error
		if b, err = canonjson.AppendEnvelope(append(b, `"content":`...), body, check); err != nil {
			return nil, err
		}
		b = append(b, ',')
	}
	b = canonjson.AppendString(append(b, `"destination":`...), destination)
	b = canonjson.AppendString(append(b, `,"method":`...), method)
	b = canonjson.AppendString(append(b, `,"origin":`...), origin)
	b = canonjson.AppendString(append(b, `,"uri":`...), uri)
	return append(b, '}'), nil
}
