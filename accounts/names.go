package accounts

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
)

// maxUserID is the maximum length of a user ID in bytes, including sigil and server name.
// Spec: appendices#user-identifiers
const maxUserID = 255

// newLocalpart returns the localpart for a requested name. It is in lower case and restricted to the characters that
// are allowed in new IDs.
//
// Errors: M_INVALID_USERNAME.
func (s *Service) newLocalpart(username string) (string, error) {
	localpart := strings.ToLower(username)
	if localpart == "" || len(localpart)+len(s.opts.Server)+2 > maxUserID {
		return "", mxerr.New(400, mxerr.CodeInvalidUsername, "The username is empty or too long")
	}
	for i := range len(localpart) {
		c := localpart[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._=-/+", rune(c)) {
			return "", mxerr.New(400, mxerr.CodeInvalidUsername, "A username must consist of the characters a-z, 0-9 and ._=-/+")
		}
	}
	return localpart, nil
}

// localpartOf returns the localpart of a user who logs in with a local user ID or a localpart. Historical localparts
// may contain any character. localpartOf returns false for remote users.
func (s *Service) localpartOf(user string) (string, bool) {
	if !strings.HasPrefix(user, "@") {
		return user, user != ""
	}
	localpart, server, err := id.UserID(user).Parse()
	return localpart, err == nil && server == s.opts.Server
}

// maxName is the maximum length of device IDs and display names in bytes.
const maxName = 255

// checkText returns an error for text that is too long or contains control characters.
//
// Errors: M_INVALID_PARAM.
func checkText(what, text string, longest int) error {
	if len(text) > longest {
		return mxerr.InvalidParam("%s must not be longer than %d bytes", what, longest)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return mxerr.InvalidParam("%s must not have control characters", what)
	}
	return nil
}

// foldName converts a localpart to lower case. New localparts are always stored in lower case.
func foldName(localpart string) string { return strings.ToLower(localpart) }
