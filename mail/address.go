package mail

import (
	"errors"
	"fmt"
	netmail "net/mail"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxAddress bounds an e-mail address, in bytes (RFC 5321, section 4.5.3.1.3).
const MaxAddress = 254

// ErrAddress means that a text is not an e-mail address.
var ErrAddress = errors.New("this is not a valid e-mail address (expected a form such as alice@example.org)")

// ParseAddress returns the canonical form of an e-mail address, which identifies it: two spellings of the same address
// have the same canonical form. It is entirely in lower case, even before the @, as Matrix requires. ParseAddress
// refuses quoted local parts, comments and addresses at IP addresses.
// Spec: appendices#email
//
// Errors: ErrAddress.
func ParseAddress(text string) (string, error) {
	if len(text) > MaxAddress || !utf8.ValidString(text) {
		return "", ErrAddress
	}
	text = strings.ToLower(text)
	local, domain, found := strings.Cut(text, "@")
	if !found || !isDotAtom(local) || !isDomain(domain) {
		return "", ErrAddress
	}
	if a, err := netmail.ParseAddress(text); err != nil || a.Address != text { // the standard library must agree
		return "", ErrAddress
	}
	return text, nil
}

// isDotAtom reports whether text is a local part that needs no quotes (RFC 5322 section 3.2.3, RFC 6532).
func isDotAtom(text string) bool {
	for atom := range strings.SplitSeq(text, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(c rune) bool { return !isAtomText(c) }) {
			return false
		}
	}
	return true
}

func isAtomText(c rune) bool {
	if c >= utf8.RuneSelf {
		return unicode.IsLetter(c) || unicode.IsMark(c) || unicode.IsNumber(c)
	}
	return isAlphanumeric(c) || strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", c)
}

func isAlphanumeric(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isDomain(text string) bool {
	for label := range strings.SplitSeq(text, ".") {
		inLabel := func(c rune) bool {
			return isAlphanumeric(c) || c == '-' || c >= utf8.RuneSelf && isAtomText(c)
		}
		if label == "" || label[0] == '-' || strings.HasSuffix(label, "-") || strings.ContainsFunc(label, func(c rune) bool { return !inLabel(c) }) {
			return false
		}
	}
	return true
}

// ParseSender parses the sender of messages, in the form ADDRESS or NAME <ADDRESS>.
func ParseSender(text string) (*netmail.Address, error) {
	a, err := netmail.ParseAddress(text)
	if err != nil {
		return nil, fmt.Errorf("%q is neither an e-mail address nor of the form Name <name@example.org>: %w", text, err)
	}
	if _, err := ParseAddress(a.Address); err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	return a, nil
}

func isASCII(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c >= utf8.RuneSelf })
}
