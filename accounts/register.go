package accounts

import (
	"context"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// NewAccount describes an account to create.
type NewAccount struct {
	Username    string // "" to generate one
	Password    string
	DisplayName string
	Admin       bool
	Token       string      // registration token whose uses count, or ""
	GuestToken  string      // access token of the guest account that becomes this account, or ""
	SignIn      *NewSession // nil to create no session
	Email       *Verified   // the verified address of the account, or nil
	Network     string      // the client's network, for Budgets; "" if an administrator or application service creates the account
	AppService  string      // the application service that creates the account, which gets no password; or ""
	NoPassword  bool        // the account is for a program and gets no password
	KnownEmail  string      // an address that another service vouches for, or ""
	Identity    *Identity   // what the account belongs to at another service, or nil
	Path        gate.Path   // the path on which SignIn gets its tokens; "" means gate.PathRegister

	// Also is called within the write that creates the account, unless it is nil.
	Also func(tx *storage.Tx, account storage.AccountRow) error
}

// Create creates an account regardless of the registration mode; the caller decides who may do so.
//
// Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_WEAK_PASSWORD, M_FORBIDDEN if the registration token is used up,
// M_LIMIT_EXCEEDED, M_EXCLUSIVE for an application service.
func (s *Service) Create(ctx context.Context, n NewAccount) (SignedIn, error) {
	if n.Username == "" {
		n.Username = letters(lowerAlphabet, 12)
	}
	localpart, err := s.newLocalpart(n.Username)
	if err != nil {
		return SignedIn{}, err
	}
	if n.DisplayName == "" {
		n.DisplayName = n.Username // clients expect an initial display name
	}
	if err := s.checkNew(n); err != nil {
		return SignedIn{}, err
	}
	if n.SignIn != nil && n.SignIn.Network == "" {
		session := *n.SignIn
		session.Network, n.SignIn = n.Network, &session
	}
	if n.SignIn != nil {
		if err := s.gate.AdmitsNew(n.attempt(0), n.Admin); err != nil {
			return SignedIn{}, err
		}
	}
	if n.Network != "" {
		var made gate.Guess // counts even if creating the account fails, because hashing the password is expensive
		if err := made.Take(s.opts.Budgets.NewAccounts, n.Network); err != nil {
			return SignedIn{}, err
		}
	}
	if n.AppService != "" && s.reserved(n.AppService, localpart) || s.opts.Notices.Reserves(localpart) {
		return SignedIn{}, errExclusive()
	}
	hash, err := s.hashOf(ctx, n)
	if err != nil {
		return SignedIn{}, err
	}
	out := SignedIn{}
	err = s.write(ctx, func(w *write) (err error) {
		row := storage.AccountRow{Localpart: localpart, Password: hash, Admin: n.Admin}
		if n.GuestToken != "" {
			out, err = s.upgrade(w, row, n)
		} else {
			out, err = s.create(w, row, n)
		}
		return err
	})
	if err != nil {
		return SignedIn{}, err
	}
	return out, nil
}

// hashOf returns the hash of the password of a new account, or "" if it has no password.
func (s *Service) hashOf(ctx context.Context, n NewAccount) (string, error) {
	if n.AppService != "" || n.NoPassword {
		return "", nil
	}
	return s.hasher.hash(ctx, n.Password)
}

func (s *Service) checkNew(n NewAccount) error {
	if n.AppService == "" && !n.NoPassword {
		if err := s.CheckPassword(n.Password, n.Username); err != nil {
			return err
		}
	}
	if err := checkText("displayname", n.DisplayName, maxDisplayName); err != nil || n.SignIn == nil {
		return err
	}
	return n.SignIn.check()
}

func (s *Service) create(w *write, a storage.AccountRow, n NewAccount) (SignedIn, error) {
	user := s.UserID(a.Localpart)
	var err error
	if a.NID, err = w.UserNID(string(user)); err != nil {
		return SignedIn{}, err
	}
	a.CreatedTS = w.Now().UnixMilli()
	w.note("account made", "user", user, "admin", n.Admin, "registration_token", shortened(n.Token))
	search := searchText(user, n.DisplayName)
	if a.Guest {
		search = "" // guests are not in the user directory
	}
	if fresh, err := w.AddAccount(a, search); err != nil {
		return SignedIn{}, err
	} else if !fresh {
		return SignedIn{}, errInUse()
	}
	if err := w.useRegistrationToken(n.Token); err != nil {
		return SignedIn{}, err
	}
	if n.Email != nil {
		if err := w.useEmail(*n.Email, a.NID); err != nil {
			return SignedIn{}, err
		}
	}
	if err := s.addKnownEmail(w, n.KnownEmail, a.NID); err != nil {
		return SignedIn{}, err
	}
	if n.Identity != nil {
		if err := w.addIdentity(*n.Identity, a.NID); err != nil {
			return SignedIn{}, err
		}
	}
	if n.DisplayName != "" {
		if err := w.SetProfileField(a.NID, storage.ProfileField{Name: fieldDisplayName, Value: jsonString(n.DisplayName)}); err != nil {
			return SignedIn{}, err
		}
	}
	if n.Also != nil {
		if err := n.Also(w.Tx, a); err != nil {
			return SignedIn{}, err
		}
	}
	if n.SignIn == nil {
		return SignedIn{User: user}, nil
	}
	return s.admit(w, n.attempt(a.NID), *n.SignIn)
}

// attempt returns the attempt on which the gate decides when a new account is created and logged in.
func (n NewAccount) attempt(user ident.UserNID) gate.Attempt {
	at := gate.Attempt{Path: n.Path, User: user, Network: n.Network}
	switch {
	case n.AppService != "":
		at.Path, at.Shown = gate.PathAppService, gate.AppService
	case n.Path == "":
		at.Path = gate.PathRegister
	}
	if n.Password != "" {
		at.Shown |= gate.Password
	}
	if n.Token != "" || n.Path == gate.PathSharedSecret {
		at.Shown |= gate.Invitation
	}
	if n.Email != nil {
		at.Shown |= gate.Email
	}
	return at
}

func errExclusive() error {
	return mxerr.New(400, mxerr.CodeExclusive, "This username is reserved for an application service or for server notices, or outside the namespaces of the requesting service")
}

// useRegistrationToken counts a use of a registration token. It does nothing if token is empty.
func (w *write) useRegistrationToken(token string) error {
	if token == "" {
		return nil
	}
	good, err := w.UseRegistrationToken(token)
	if err == nil && !good {
		err = mxerr.Forbidden("The registration token is used up or has expired")
	}
	return err
}

func errInUse() error { return mxerr.New(400, mxerr.CodeUserInUse, "This username is already in use") }

// Available returns nil if a user name could be registered.
//
// Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_EXCLUSIVE.
func (s *Service) Available(ctx context.Context, username string) error {
	localpart, err := s.newLocalpart(username)
	if err != nil {
		return err
	}
	if s.reserved("", localpart) || s.opts.Notices.Reserves(localpart) {
		return errExclusive()
	}
	return s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		_, taken, err := tx.AccountByLocalpart(localpart)
		if err == nil && taken {
			err = errInUse()
		}
		return err
	})
}

// RegistrationToken is a token with which people can create accounts.
type RegistrationToken struct {
	Token     string
	Uses      *int64 // accounts that may be created with it; nil for any number
	Completed int64  // accounts created with it
	Pending   int64  // registrations in progress that use it
	Expires   time.Time
	Created   time.Time
}

// CreateToken creates a registration token. An empty Token means that its text is generated. Uses and Expires limit the
// token; a zero Expires means that it never expires.
//
// Errors: M_INVALID_PARAM if there is a token with that text.
func (s *Service) CreateToken(ctx context.Context, t RegistrationToken) (RegistrationToken, error) {
	if t.Token == "" {
		t.Token = letters(lowerAlphabet, 16)
	}
	if err := checkRegistrationToken(t); err != nil {
		return t, err
	}
	t.Created = s.opts.Now()
	row := storage.RegistrationToken{Token: t.Token, Uses: t.Uses, CreatedTS: t.Created.UnixMilli()}
	if !t.Expires.IsZero() {
		row.ExpiresTS = t.Expires.UnixMilli()
	}
	return t, s.write(ctx, func(w *write) error {
		w.note("registration token made", "registration_token", shortened(t.Token), "uses", usesText(t.Uses), "expires", expiryText(t.Expires))
		fresh, err := w.AddRegistrationToken(row)
		if err == nil && !fresh {
			err = mxerr.InvalidParam("The registration token %s already exists", t.Token)
		}
		return err
	})
}

// shortened returns enough of a secret to recognize it.
func shortened(token string) string {
	if token == "" {
		return ""
	}
	return token[:min(len(token)/2, 4)] + "…"
}

func usesText(uses *int64) string {
	if uses == nil {
		return "any number"
	}
	return strconv.FormatInt(*uses, 10)
}

func expiryText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}

// checkRegistrationToken checks the grammar of a new registration token.
// Spec: appendices#opaque-identifiers, at most 64 characters
func checkRegistrationToken(t RegistrationToken) error {
	bad := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._~-", c)
	}
	if len(t.Token) > 64 || strings.ContainsFunc(t.Token, bad) {
		return mxerr.InvalidParam("A registration token must have at most 64 characters, all of them A-Z, a-z, 0-9 or ._~-")
	}
	if t.Uses != nil && *t.Uses < 0 {
		return mxerr.InvalidParam("uses_allowed must not be negative")
	}
	return nil
}

// ListTokens returns at most limit registration tokens that follow the token after, ordered by creation time and text.
// The token after need not exist any more. The zero RegistrationToken precedes all others.
func (s *Service) ListTokens(ctx context.Context, after RegistrationToken, limit int) ([]RegistrationToken, error) {
	var rows []storage.RegistrationToken
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.RegistrationTokens(after.Created.UnixMilli(), after.Token, limit)
		return err
	})
	out := make([]RegistrationToken, len(rows))
	for i, r := range rows {
		out[i] = RegistrationToken{Token: r.Token, Uses: r.Uses, Completed: r.Completed, Pending: s.applying.pendingOf(r.Token),
			Created: time.UnixMilli(r.CreatedTS)}
		if r.ExpiresTS != 0 {
			out[i].Expires = time.UnixMilli(r.ExpiresTS)
		}
	}
	return out, err
}

// RevokeToken removes a registration token.
//
// Errors: M_NOT_FOUND.
func (s *Service) RevokeToken(ctx context.Context, token string) error {
	return s.write(ctx, func(w *write) error {
		w.note("registration token revoked", "registration_token", shortened(token))
		found, err := w.DeleteRegistrationToken(token)
		if err == nil && !found {
			err = mxerr.NotFound("There is no such registration token")
		}
		return err
	})
}

// TokenUsable reports whether a client in the given network could register with a token now. Pending registrations
// count as uses.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) TokenUsable(ctx context.Context, token, network string) (bool, error) {
	t, found, err := s.guessRegistrationToken(ctx, token, network)
	return err == nil && found && s.usable(t, s.applying.pendingOf(token)), err
}

// guessRegistrationToken finds a registration token. An unknown token counts as a wrong guess from the network.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) guessRegistrationToken(ctx context.Context, token, network string) (t storage.RegistrationToken, found bool, err error) {
	if token == "" {
		return t, false, nil
	}
	try, err := s.gate.GuessToken(gate.RegistrationTokens, network)
	if err != nil {
		return t, false, err
	}
	t, found, err = s.registrationToken(ctx, token)
	if found || err != nil {
		try.Right()
	} else {
		s.opts.Log.InfoContext(ctx, "unknown registration token")
	}
	return t, found, err
}

func (s *Service) registrationToken(ctx context.Context, token string) (t storage.RegistrationToken, found bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		t, found, err = tx.RegistrationToken(token)
		return err
	})
	return t, found, err
}

func (s *Service) usable(t storage.RegistrationToken, pending int64) bool {
	return (t.Uses == nil || t.Completed+pending < *t.Uses) && (t.ExpiresTS == 0 || t.ExpiresTS > s.opts.Now().UnixMilli())
}

// Account is an account as shown to administrators.
type Account struct {
	User        id.UserID
	Created     time.Time
	Admin       bool
	Deactivated bool
	Locked      bool
	Suspended   bool
	Guest       bool
	MFA         string // the account's own policy on second factors; "" if it has that of the server
}

// List returns at most limit accounts, ordered by localpart, that follow the given localpart.
func (s *Service) List(ctx context.Context, after string, limit int) ([]Account, error) {
	var rows []storage.AccountRow
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.ListAccounts(after, limit)
		return err
	})
	out := make([]Account, len(rows))
	for i, r := range rows {
		out[i] = Account{User: s.UserID(r.Localpart), Created: time.UnixMilli(r.CreatedTS), Admin: r.Admin, Deactivated: r.DeactivatedTS != 0,
			Locked: r.Locked, Suspended: r.Suspended, Guest: r.Guest, MFA: r.MFA}
	}
	return out, err
}

// IsAdmin reports whether a local user is an administrator.
//
// Errors: M_NOT_FOUND.
func (s *Service) IsAdmin(ctx context.Context, user id.UserID) (admin bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.account(tx, user)
		admin = a.Admin && a.DeactivatedTS == 0
		return err
	})
	return admin, err
}

// SetAdmin sets whether a user is an administrator.
//
// Errors: M_NOT_FOUND.
func (s *Service) SetAdmin(ctx context.Context, user id.UserID, admin bool) error {
	return s.write(ctx, func(w *write) error {
		a, err := s.activeAccount(w.Tx, user)
		if err != nil {
			return err
		}
		w.after(func() { s.sessions.dropUser(a.NID) })
		w.note("administrator's rights changed", "user", user, "admin", admin)
		return w.SetAdmin(a.NID, admin)
	})
}

// ActiveUser returns the number of a local user.
//
// Errors: M_NOT_FOUND if there is no such account, or if it was deactivated.
func (s *Service) ActiveUser(ctx context.Context, user id.UserID) (nid ident.UserNID, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.activeAccount(tx, user)
		nid = a.NID
		return err
	})
	return nid, err
}

// activeAccount is like account but refuses deactivated accounts.
func (s *Service) activeAccount(tx *storage.Tx, user id.UserID) (storage.AccountRow, error) {
	a, err := s.account(tx, user)
	if err == nil && a.DeactivatedTS != 0 {
		err = mxerr.NotFound("The account has been deactivated")
	}
	return a, err
}
