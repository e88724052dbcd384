package accounts

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
)

// maxUserID bounds a user id in bytes, with sigil and server name.
// Spec: appendices#user-identifiers
const maxUserID = 255

// newLocalpart is the localpart for a name that somebody wishes: in lower case, of the characters that new ids may have.
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

// localpartOf is the localpart that somebody signs in with: a user id of this server, or a localpart. Historical ones may
// have any character. False for users of other servers.
func (s *Service) localpartOf(user string) (string, bool) {
	if !strings.HasPrefix(user, "@") {
		return user, user != ""
	}
	localpart, server, err := id.UserID(user).Parse()
	return localpart, err == nil && server == s.opts.Server
}

// maxName bounds ids and display names of devices in bytes.
const maxName = 255

// checkText refuses text that is too long or has control characters.
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

// foldName is a localpart as new ones are.
func foldName(localpart string) string { return strings.ToLower(localpart) }
