package accounts

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// An alert contains a link with which its user says "this was not me". Following the link changes nothing, because
// programs that check links follow them too. Confirming it (Disavow) ends the session that the alert is about, undoes
// what was added to the account since then, and makes the password unusable: somebody else may know it. The user sets a
// new one by e-mail, or after signing in with a passkey, or asks an administrator.

// Disavowal is what the page of a link shows.
type Disavowal struct {
	User    id.UserID
	Title   string // what the alert is about
	Text    string
	Network string // from which it was done; "": unknown

	// How the user can set a new password: by e-mail, or after signing in with a passkey. If neither is possible, an
	// administrator has to do it.
	ByEmail, ByPasskey bool
	Service            string // the service that has the password, where the user must change it; "": this server

	Identities []Identity // at other services, which can still sign the user in
}

func errNoDisavowal() error {
	return mxerr.New(http.StatusNotFound, mxerr.CodeNotFound, "This link has expired or was used already. If you do not trust a session of your account, sign it out and change your password")
}

// OpenDisavowal returns what a link is about. It does not use the link up.
//
// Errors: M_NOT_FOUND.
func (s *Service) OpenDisavowal(ctx context.Context, token string) (out Disavowal, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		_, out, err = s.disavowal(tx, token)
		return err
	})
	return out, err
}

// disavowal finds a link.
//
// Errors: M_NOT_FOUND.
func (s *Service) disavowal(tx *storage.Tx, token string) (d storage.Disavowal, out Disavowal, err error) {
	d, found, err := tx.Disavowal(keyOf(token).String())
	if err != nil {
		return d, out, err
	}
	a := storage.AccountRow{}
	if found {
		a, found, err = tx.Account(d.User)
	}
	if err == nil && (!found || a.DeactivatedTS != 0) {
		err = errNoDisavowal()
	}
	if err != nil {
		return d, out, err
	}
	out.User = s.UserID(a.Localpart)
	out.Title, out.Text, out.Network = notices.Describe(d.Kind, d.Details)
	return d, out, s.waysBack(tx, d, &out)
}

// waysBack finds out how the user of a link can set a new password. What was added since the alert does not count,
// since the link removes it.
func (s *Service) waysBack(tx *storage.Tx, d storage.Disavowal, out *Disavowal) error {
	a, _, err := tx.Account(d.User)
	if err != nil {
		return err
	}
	if out.Identities, err = s.identities(tx, d.User, d.SinceTS); err != nil {
		return err
	}
	if out.Service, err = s.serviceOf(tx, a); err != nil || out.Service != "" {
		return err
	}
	addresses, err := tx.Emails(d.User, maxEmails)
	if err != nil {
		return err
	}
	for _, e := range addresses {
		out.ByEmail = out.ByEmail || s.HasEmail() && e.AddedTS < d.SinceTS
	}
	keys, err := tx.Passkeys(d.User, maxEmails)
	for _, k := range keys {
		out.ByPasskey = out.ByPasskey || k.CreatedTS < d.SinceTS
	}
	return err
}

// Disavow does what the user of a link asks for: it ends the session that the alert is about and all that began later,
// removes second factors, e-mail addresses, identities at other services and links that were added since the alert,
// signs out all browsers, and makes the password unusable. The link cannot be used again, nor can another one of the
// same alert.
//
// Errors: M_NOT_FOUND.
func (s *Service) Disavow(ctx context.Context, token string) (out Disavowal, err error) {
	err = s.write(ctx, func(w *write) error {
		var d storage.Disavowal
		if d, out, err = s.disavowal(w.Tx, token); err != nil {
			return err
		}
		w.note("user says that it was not them", "user", out.User, "alert", d.Kind)
		sessions, err := w.LaterSessions(d.User, d.Device, d.SinceTS, MaxDevices)
		if err != nil {
			return err
		}
		if err := s.deleteDevices(w, d.User, sessions); err != nil {
			return err
		}
		if err := w.DeleteLoginTokens(d.User); err != nil {
			return err
		}
		if err := w.DeleteOpenIDTokens(d.User); err != nil {
			return err
		}
		if err := w.RemoveSince(d.User, d.SinceTS); err != nil {
			return err
		}
		if err := s.spoilPassword(w, d.User); err != nil {
			return err
		}
		return w.DropDisavowals(d.User, d.Notice)
	})
	return out, err
}

// spoilPassword makes the password of an account unusable. If the account has none on this server, because another
// service signs its user in, nothing is changed.
func (s *Service) spoilPassword(w *write, user ident.UserNID) error {
	a, _, err := w.Account(user)
	if err != nil || !a.HasPassword() {
		return err
	}
	return w.replacePassword(user, storage.UnusablePassword, "")
}
