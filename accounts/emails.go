package accounts

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mail"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// EmailUse says whether people need, may give or cannot give an e-mail address when they register.
type EmailUse string

// The uses of e-mail addresses at registration.
const (
	EmailOff      EmailUse = "off"
	EmailOptional EmailUse = "optional"
	EmailRequired EmailUse = "required"
)

// EmailOptions holds the settings for the e-mail addresses of accounts.
type EmailOptions struct {
	Sender       *mail.Sender // nil if accounts cannot have addresses
	Registration EmailUse
	Domains      []string // only addresses of these domains are allowed; empty for all domains
	Reveal       bool     // whether the response to a request for a link reveals that an address belongs to an account
	PublicURL    string   // the server's address in links
}

// The media of third-party identifiers.
// Spec: appendices#3pid-types
const (
	mediumEmail  = "email"
	mediumMSISDN = "msisdn"
)

// maxEmails bounds the e-mail addresses of an account.
const maxEmails = 20

// errNotOffered returns the error for third-party identifiers that accounts cannot have.
func errNotOffered(medium string) error {
	return mxerr.New(http.StatusBadRequest, mxerr.CodeThreepidMedium, "This server does not support %s", medium)
}

// RefusePhoneNumber returns the error for operations on telephone numbers.
func RefusePhoneNumber() error { return errNotOffered("telephone numbers") }

func errEmailInUse() error {
	return mxerr.New(http.StatusBadRequest, mxerr.CodeThreepidInUse, "This e-mail address already belongs to an account")
}

func errNoSuchEmail() error {
	return mxerr.New(http.StatusBadRequest, mxerr.CodeThreepidNotFound, "No account on this server has this e-mail address")
}

// HasEmail reports whether this server sends e-mail. If it does not, accounts cannot have addresses.
func (s *Service) HasEmail() bool { return s.opts.Emails.Sender != nil }

// registrationEmail returns whether people need, may give or cannot give an e-mail address when they register.
func (s *Service) registrationEmail() EmailUse {
	if !s.HasEmail() || s.opts.Emails.Registration == "" {
		return EmailOff
	}
	return s.opts.Emails.Registration
}

// parseEmail returns the canonical form of an address.
//
// Errors: M_INVALID_PARAM.
func parseEmail(text string) (string, error) {
	address, err := mail.ParseAddress(text)
	if err != nil {
		return "", mxerr.InvalidParam("The e-mail address is not valid").Because(err)
	}
	return address, nil
}

// allowsDomain reports whether accounts may have addresses in the domain of the given address.
func (o EmailOptions) allowsDomain(address string) bool {
	_, domain, _ := strings.Cut(address, "@")
	return len(o.Domains) == 0 || slices.ContainsFunc(o.Domains, func(d string) bool { return strings.EqualFold(d, domain) })
}

// Email is an e-mail address of an account.
type Email struct {
	Address          string
	Added, Validated time.Time
}

// Emails returns the e-mail addresses of an account.
func (s *Service) Emails(ctx context.Context, user ident.UserNID) ([]Email, error) {
	var rows []storage.EmailRow
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.Emails(user, maxEmails)
		return err
	})
	out := make([]Email, len(rows))
	for i, r := range rows {
		out[i] = Email{Address: r.Address, Added: time.UnixMilli(r.AddedTS), Validated: time.UnixMilli(r.ValidatedTS)}
	}
	return out, err
}

// AddEmail adds an address to an account after the owner of the address has followed the link. The caller has
// authenticated the user.
//
// Errors: M_THREEPID_AUTH_FAILED, M_THREEPID_IN_USE, M_LIMIT_EXCEEDED if the account has too many addresses.
func (s *Service) AddEmail(ctx context.Context, who ident.Requester, creds EmailCredentials) error {
	v, err := s.CheckEmail(ctx, creds)
	if err != nil {
		return err
	}
	return s.write(ctx, func(w *write) error {
		if own, err := w.Emails(who.UserNID, maxEmails); err != nil {
			return err
		} else if len(own) == maxEmails {
			return mxerr.InvalidParam("An account can have at most %d e-mail addresses", maxEmails)
		}
		w.note("e-mail address added", "user", who.UserID, "address", v.Address)
		if err := w.emailChanged(who, "an e-mail address was added", ""); err != nil { // before it is added, so that its owner gets no alert
			return err
		}
		return w.useEmail(v, who.UserNID)
	})
}

// useEmail uses up a verification and adds its address to an account.
//
// Errors: M_THREEPID_AUTH_FAILED, M_THREEPID_IN_USE.
func (w *write) useEmail(v Verified, user ident.UserNID) error {
	if _, found, err := w.EmailSession(v.sid); err != nil {
		return err
	} else if !found { // used in the meantime
		return errNotVerified()
	}
	if err := w.DeleteEmailSessions(v.Address, v.purpose); err != nil {
		return err
	}
	fresh, err := w.AddEmail(storage.EmailRow{Address: v.Address, User: user, AddedTS: w.Now().UnixMilli(), ValidatedTS: v.validatedTS})
	if err == nil && !fresh {
		err = errEmailInUse()
	}
	return err
}

// RemoveEmail removes an address from an account. It returns nil if the account does not have the address.
//
// Errors: M_INVALID_PARAM, M_THREEPID_MEDIUM_NOT_SUPPORTED.
func (s *Service) RemoveEmail(ctx context.Context, who ident.Requester, medium, address string) error {
	if err := checkMedium(medium); err != nil {
		return err
	}
	address, err := parseEmail(address)
	if err != nil {
		return err
	}
	return s.write(ctx, func(w *write) error {
		found, err := w.DeleteEmail(who.UserNID, address)
		if err != nil || !found {
			return err
		}
		w.note("e-mail address removed", "user", who.UserID, "address", address)
		return w.emailChanged(who, "an e-mail address was removed", address)
	})
}

// emailChanged alerts a user of a change of the account's e-mail addresses. The alert also goes to the address removed,
// unless that is "".
func (w *write) emailChanged(who ident.Requester, what, removed string) error {
	return w.svc.opts.Notices.Add(w.Tx, notices.Notice{
		User: who.UserNID, Kind: notices.EmailChanged, Device: who.DeviceNID, Details: notices.Details{What: what, Device: string(who.DeviceID)}, MailTo: removed,
	})
}

// checkMedium checks the medium of a third-party identifier.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_THREEPID_MEDIUM_NOT_SUPPORTED.
func checkMedium(medium string) error {
	switch medium {
	case mediumEmail:
		return nil
	case mediumMSISDN:
		return RefusePhoneNumber()
	case "":
		return mxerr.MissingParam("medium is missing")
	}
	return mxerr.InvalidParam("medium must be email, not %.32q", medium)
}

// accountOfEmail returns the account that has the given address, and the target for which guesses at its password
// count: the address. If there is no such account, it returns one without a password, so that guessing the password of
// an unknown address takes as long and counts as much.
func (s *Service) accountOfEmail(ctx context.Context, text string) (a storage.AccountRow, target string, err error) {
	address, err := mail.ParseAddress(text)
	if err != nil {
		return a, "", nil //nolint:nilerr // no account has it
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		row, found, err := tx.Email(address)
		if err == nil && found {
			a, found, err = tx.Account(row.User)
		}
		if !found {
			a.Localpart = address
		}
		return err
	})
	return a, address, err
}

// userOfEmail returns the account that has an address. found is false if there is none.
func (s *Service) userOfEmail(tx *storage.Tx, address string) (user id.UserID, nid ident.UserNID, found bool, err error) {
	row, found, err := tx.Email(address)
	if err != nil || !found {
		return "", 0, false, err
	}
	name, err := tx.UserID(row.User)
	return id.UserID(name), row.User, true, err
}

// CanonicalAddress returns the canonical form of an address of a medium.
//
// Errors: M_INVALID_PARAM, M_THREEPID_MEDIUM_NOT_SUPPORTED.
func CanonicalAddress(medium, address string) (string, error) {
	if err := checkMedium(medium); err != nil {
		return "", err
	}
	return parseEmail(address)
}
