package accounts

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// The profile fields that have a meaning for the server.
const (
	fieldDisplayName = "displayname"
	fieldAvatar      = "avatar_url"
)

// Bounds of a profile. The total is set by the specification; the others keep member events small.
// Spec: client-server-api#put_matrixclientv3profileuseridkeyname
const (
	maxProfile     = 64 << 10 // bytes of the complete profile as JSON
	maxProfileKey  = 255      // bytes
	maxDisplayName = 256      // bytes
	maxAvatarURL   = 1000     // bytes

	// Bounds of a user's status. Spec: MSC4426
	maxStatusText  = 256 // bytes
	maxStatusEmoji = 32  // bytes
)

// Field is one field of a profile.
type Field struct {
	Name  string
	Value json.RawMessage
}

// Profile returns the profile fields of a user, ordered by name. For a remote user it requests them from the user's
// server.
//
// Errors: M_NOT_FOUND, and errors of the other server.
func (s *Service) Profile(ctx context.Context, user id.UserID) ([]Field, error) {
	if server, remote := s.remoteUser(user); remote {
		return s.remoteProfile(ctx, server, user)
	}
	return s.LocalProfile(ctx, user)
}

// LocalProfile returns the profile fields of a local user, ordered by name. If the user is unknown, the application
// service whose namespaces include the user is asked to create it.
//
// Errors: M_NOT_FOUND.
func (s *Service) LocalProfile(ctx context.Context, user id.UserID) ([]Field, error) {
	fields, err := s.storedProfile(ctx, user)
	if mxerr.Code(err) == mxerr.CodeNotFound && s.opts.Users != nil && s.opts.Users.QueryUser(ctx, user) {
		return s.storedProfile(ctx, user)
	}
	return fields, err
}

func (s *Service) storedProfile(ctx context.Context, user id.UserID) ([]Field, error) {
	var rows []storage.ProfileField
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.account(tx, user)
		if err != nil {
			return err
		}
		rows, err = tx.Profile(a.NID)
		return err
	})
	out := make([]Field, len(rows))
	for i, r := range rows {
		out[i] = Field{r.Name, json.RawMessage(r.Value)}
	}
	return out, err
}

// ProfileField returns one field of a user's profile.
//
// Errors: M_NOT_FOUND, M_INVALID_PARAM.
func (s *Service) ProfileField(ctx context.Context, user id.UserID, name string) (json.RawMessage, error) {
	if err := checkKey(name); err != nil {
		return nil, err
	}
	fields, err := s.Profile(ctx, user)
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		if f.Name == name {
			return f.Value, nil
		}
	}
	return nil, mxerr.NotFound("The profile has no such field")
}

// MemberProfile returns the display name and the avatar of a local user, as member events have them. Each is "" if it
// is not set, or if the user is unknown and no application service creates it.
func (s *Service) MemberProfile(ctx context.Context, user id.UserID) (displayName, avatarURL string, err error) {
	fields, err := s.LocalProfile(ctx, user)
	if err != nil && mxerr.Code(err) != mxerr.CodeNotFound {
		return "", "", fmt.Errorf("read profile of %s: %w", user, err)
	}
	for _, f := range fields {
		switch f.Name {
		case fieldDisplayName:
			displayName = stringOf(string(f.Value))
		case fieldAvatar:
			avatarURL = stringOf(string(f.Value))
		}
	}
	return displayName, avatarURL, nil
}

func nameAndAvatar(fields []storage.ProfileField) (displayName, avatarURL string) {
	for _, f := range fields {
		switch f.Name {
		case fieldDisplayName:
			displayName = stringOf(f.Value)
		case fieldAvatar:
			avatarURL = stringOf(f.Value)
		}
	}
	return displayName, avatarURL
}

// stringOf returns the value of a JSON string, or "" for anything else.
func stringOf(raw string) string {
	var s string
	if json.Unmarshal([]byte(raw), &s) != nil {
		return ""
	}
	return s
}

// jsonString returns s as a JSON string.
func jsonString(s string) string {
	raw, err := json.Marshal(s)
	if err != nil { // encoding a string never fails
		return `""`
	}
	return string(raw)
}

// SetProfileField sets a field of a user's profile. An empty display name or avatar removes the field. When
// SetProfileField returns, a change of these two has reached the user's rooms.
//
// Errors: M_INVALID_PARAM, M_KEY_TOO_LARGE, M_PROFILE_TOO_LARGE.
func (s *Service) SetProfileField(ctx context.Context, who ident.Requester, name string, value json.RawMessage) error {
	if err := checkKey(name); err != nil {
		return err
	}
	if err := checkValue(name, value); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := json.Compact(&text, value); err != nil {
		return mxerr.BadJSON("The value is not JSON").Because(err)
	}
	f := storage.ProfileField{Name: name, Value: text.String()}
	if known(name) && (f.Value == `""` || f.Value == "null") {
		return s.DeleteProfileField(ctx, who, name)
	}
	return s.changeProfile(ctx, who, name, func(w *write) error { return w.SetProfileField(who.UserNID, f) })
}

// SetDisplayName sets a user's display name. An empty one removes it.
//
// Errors: M_INVALID_PARAM, M_PROFILE_TOO_LARGE.
func (s *Service) SetDisplayName(ctx context.Context, who ident.Requester, name string) error {
	return s.SetProfileField(ctx, who, fieldDisplayName, json.RawMessage(jsonString(name)))
}

// SetAvatar sets the address of a user's picture. "" removes it.
//
// Errors: M_INVALID_PARAM, M_PROFILE_TOO_LARGE.
func (s *Service) SetAvatar(ctx context.Context, who ident.Requester, address string) error {
	return s.SetProfileField(ctx, who, fieldAvatar, json.RawMessage(jsonString(address)))
}

// DeleteProfileField removes a field of a user's profile.
//
// Errors: M_INVALID_PARAM, M_KEY_TOO_LARGE.
func (s *Service) DeleteProfileField(ctx context.Context, who ident.Requester, name string) error {
	if err := checkKey(name); err != nil {
		return err
	}
	return s.changeProfile(ctx, who, name, func(w *write) error { return w.DeleteProfileField(who.UserNID, name) })
}

// changeProfile stores a change, updates the user directory, and sends a changed display name or avatar to the user's
// rooms.
func (s *Service) changeProfile(ctx context.Context, who ident.Requester, name string, change func(*write) error) error {
	err := s.write(ctx, func(w *write) error {
		if err := change(w); err != nil {
			return err
		}
		if committed := s.opts.Hooks.ProfileCommitted; committed != nil {
			pos := w.NextPos()
			w.after(func() { committed(who.UserNID, pos) })
		}
		fields, err := w.Profile(who.UserNID)
		if err != nil {
			return err
		}
		if size(fields) > maxProfile {
			return mxerr.New(400, "M_PROFILE_TOO_LARGE", "A profile must not be larger than %d bytes", maxProfile)
		}
		if name != fieldDisplayName {
			return nil
		}
		displayName, _ := nameAndAvatar(fields)
		return w.SetSearch(who.UserNID, searchText(who.UserID, displayName))
	})
	if err != nil || !known(name) {
		return err
	}
	return s.announce(ctx, who)
}

// known reports whether the given profile field is also a part of member events.
func known(name string) bool { return name == fieldDisplayName || name == fieldAvatar }

// size returns the length of a profile as JSON.
func size(fields []storage.ProfileField) int {
	n := len("{}")
	for _, f := range fields {
		n += len(`"":,`) + len(f.Name) + len(f.Value)
	}
	return n
}

// checkKey checks the name of a field: one of the three defined by the specification, or a namespaced identifier.
// Spec: appendices#common-namespaced-identifier-grammar
func checkKey(name string) error {
	if len(name) > maxProfileKey {
		return mxerr.New(400, "M_KEY_TOO_LARGE", "The name of a profile field must not be longer than %d bytes", maxProfileKey)
	}
	bad := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
	}
	if known(name) {
		return nil
	}
	if name == "" || name[0] < 'a' || name[0] > 'z' || strings.ContainsFunc(name, bad) || !strings.Contains(name, ".") {
		return mxerr.InvalidParam("%.64q cannot be the name of a profile field", name)
	}
	return nil
}

// checkValue checks the value of a field that has a defined type.
func checkValue(name string, value json.RawMessage) error {
	switch name {
	case fieldDisplayName, fieldAvatar, "m.tz":
	case "m.status", "org.matrix.msc4426.status":
		return checkStatus(value)
	case "m.call", "org.matrix.msc4426.call":
		return checkCall(value)
	default:
		return nil
	}
	var text *string
	if err := json.Unmarshal(value, &text); err != nil || text == nil && name == "m.tz" {
		return mxerr.InvalidParam("%s must be a string", name)
	}
	if text == nil {
		return nil
	}
	switch name {
	case fieldDisplayName:
		return checkLength(name, *text, maxDisplayName)
	case fieldAvatar:
		return checkLength(name, *text, maxAvatarURL) // any text is allowed, as on other servers; clients check for an mxc:// URI
	}
	return checkLength(name, *text, maxName)
}

// checkStatus checks the status that a user shows to others.
// Spec: MSC4426
func checkStatus(value json.RawMessage) error {
	var status struct {
		Text  *string `json:"text"`
		Emoji *string `json:"emoji"`
	}
	if json.Unmarshal(value, &status) != nil || status.Text == nil || status.Emoji == nil {
		return mxerr.InvalidParam("A status must be an object with the strings text and emoji")
	}
	if len(*status.Text) > maxStatusText || len(*status.Emoji) > maxStatusEmoji {
		return mxerr.New(http.StatusBadRequest, mxerr.CodeTooLarge, "The text of a status must have at most %d bytes, its emoji at most %d", maxStatusText, maxStatusEmoji)
	}
	return nil
}

// checkCall checks the field that indicates that a user is in a call.
// Spec: MSC4426
func checkCall(value json.RawMessage) error {
	var call struct {
		JoinedTS *float64 `json:"call_joined_ts"`
	}
	if value = bytes.TrimSpace(value); len(value) == 0 || value[0] != '{' || json.Unmarshal(value, &call) != nil {
		return mxerr.InvalidParam("The value must be an object whose call_joined_ts is a number")
	}
	return nil
}

func checkLength(what, text string, longest int) error {
	if len(text) > longest || strings.ContainsRune(text, 0) {
		return mxerr.InvalidParam("%s must have at most %d bytes and no NUL", what, longest)
	}
	return nil
}

// announcer sends display names and avatars to rooms. For each user it makes one pass over the rooms at a time, so that
// the later of two changes prevails.
type announcer struct {
	// mu guards states; a leaf lock.
	mu     sync.Mutex
	states map[ident.UserNID]*announcement
}

// announcement is one pass over the rooms of a user. All changes that are made during a pass share the next one.
type announcement struct {
	done chan struct{}
	err  error // set when the pass is done
	next *announcement
}

// announce sends the current display name and avatar of a user to the user's rooms, and returns when that is done.
func (s *Service) announce(ctx context.Context, who ident.Requester) error {
	if s.opts.Hooks.ProfileChanged == nil {
		return nil
	}
	pass, before, mine := s.announcer.join(who.UserNID)
	if before != nil {
		<-before.done
	}
	if !mine {
		<-pass.done
		return pass.err
	}
	defer s.announcer.end(who.UserNID, pass)
	// a pass that has started covers all rooms, even if the request is cancelled
	pass.err = s.announceNow(context.WithoutCancel(ctx), who)
	return pass.err
}

// join returns the pass that announces a change committed before the call. If mine is true, the caller has to run that
// pass, as soon as the pass before, if there is one, is done.
func (a *announcer) join(user ident.UserNID) (pass, before *announcement, mine bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before = a.states[user]
	if before == nil {
		pass = &announcement{done: make(chan struct{})}
		a.states[user] = pass
		return pass, nil, true
	}
	mine = before.next == nil
	if mine {
		before.next = &announcement{done: make(chan struct{})}
	}
	return before.next, before, mine
}

func (a *announcer) end(user ident.UserNID, pass *announcement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(pass.done)
	if pass.next == nil {
		delete(a.states, user)
	} else {
		a.states[user] = pass.next
	}
}

func (s *Service) announceNow(ctx context.Context, who ident.Requester) error {
	displayName, avatarURL, err := s.MemberProfile(ctx, who.UserID)
	if err != nil {
		return err
	}
	return s.opts.Hooks.ProfileChanged(ctx, who.UserNID, who.UserID, displayName, avatarURL)
}
