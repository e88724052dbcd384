package accounts

import (
	"cmp"
	"context"
	"math"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// Identity is the account of a local user at another service.
type Identity struct {
	Issuer  string // of an OpenID Connect provider, or storage.DirectoryIssuer
	Subject string
	Label   string // the user's name there, as the service stated it when the identity was linked
	Created time.Time

	Service   string // name of the service; "" if nobody can sign in with it at present
	Directory bool   // whether the service is the LDAP directory, to which only administrators link accounts
}

// Name returns how the user is called at the service.
func (i Identity) Name() string { return cmp.Or(i.Label, i.Subject) }

// maxIdentities bounds the identities of a user at other services.
const maxIdentities = 20

// errIdentityTaken returns the error for an identity that belongs to an account already.
func errIdentityTaken() error {
	return mxerr.Forbidden("This identity belongs to an account on this server already: sign in with it")
}

// maxLabel bounds the characters of a label.
const maxLabel = 100

// addIdentity records that an account belongs to an identity at another service.
//
// Errors: M_FORBIDDEN if the identity belongs to an account already, or the account has too many.
func (w *write) addIdentity(i Identity, user ident.UserNID) error {
	all, err := w.UpstreamIdentities(user, maxIdentities)
	if err != nil {
		return err
	}
	if len(all) == maxIdentities {
		return mxerr.Forbidden("This account has too many identities at other services: remove one first")
	}
	label := []rune(i.Label)
	fresh, err := w.AddUpstreamIdentity(storage.UpstreamIdentity{Issuer: i.Issuer, Subject: i.Subject, Label: string(label[:min(len(label), maxLabel)]), User: user})
	if err == nil && !fresh {
		err = errIdentityTaken()
	}
	if err != nil {
		return err
	}
	name, err := w.UserID(user)
	w.note("identity linked", "user", name, "issuer", i.Issuer, "subject", i.Subject)
	return err
}

// Identities returns the identities of a user at other services.
//
// Errors: M_NOT_FOUND.
func (s *Service) Identities(ctx context.Context, user id.UserID) ([]Identity, error) {
	var out []Identity
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.account(tx, user)
		if err == nil {
			out, err = s.identities(tx, a.NID, math.MaxInt64)
		}
		return err
	})
	return out, err
}

// identities returns the identities of a user that were linked before a time (ms).
func (s *Service) identities(tx *storage.Tx, user ident.UserNID, beforeTS int64) ([]Identity, error) {
	rows, err := tx.UpstreamIdentities(user, maxIdentities)
	var out []Identity
	for _, r := range rows {
		directory := r.Issuer == storage.DirectoryIssuer
		if !directory && r.CreatedTS >= beforeTS {
			continue
		}
		out = append(out, Identity{
			Issuer: r.Issuer, Subject: r.Subject, Label: r.Label, Created: time.UnixMilli(r.CreatedTS), Service: s.nameOfIssuer(r.Issuer), Directory: directory,
		})
	}
	return out, err
}

// Link records that an account belongs to an identity at another service. If that is the LDAP directory, the account
// loses its password here, since the directory is not asked for accounts that have one.
//
// Errors: M_NOT_FOUND; M_FORBIDDEN if the identity belongs to an account already, or the account has too many;
// M_INVALID_PARAM.
func (s *Service) Link(ctx context.Context, user id.UserID, i Identity) error {
	if i.Issuer == "" || i.Subject == "" {
		return mxerr.InvalidParam("The issuer and the subject must not be empty")
	}
	return s.write(ctx, func(w *write) error {
		a, err := s.activeAccount(w.Tx, user)
		if err != nil {
			return err
		}
		if i.Issuer == storage.DirectoryIssuer {
			i.Subject = foldName(i.Subject)
			if err := w.replacePassword(a.NID, "", ""); err != nil {
				return err
			}
		}
		if err := w.identitiesChanged(a.NID, "an identity at "+cmp.Or(s.nameOfIssuer(i.Issuer), "another service")+" was linked"); err != nil {
			return err
		}
		return w.addIdentity(i, a.NID)
	})
}

// identitiesChanged alerts a user of a change of the account's identities at other services.
func (w *write) identitiesChanged(user ident.UserNID, what string) error {
	return w.svc.opts.Notices.Add(w.Tx, notices.Notice{User: user, Kind: notices.IdentityChanged, Details: notices.Details{What: what}})
}

// Unlink removes an identity of a user. Sessions of devices that began with it continue.
//
// Errors: M_NOT_FOUND.
func (s *Service) Unlink(ctx context.Context, user id.UserID, i Identity) error {
	return s.unlink(ctx, user, i, func(*storage.Tx, storage.AccountRow) error { return nil })
}

// UnlinkOwn removes an identity on behalf of its user, unless it is the only way in which the user can sign in.
//
// Errors: M_NOT_FOUND; M_FORBIDDEN for the only way to sign in, and for the LDAP directory, to which only
// administrators link accounts.
func (s *Service) UnlinkOwn(ctx context.Context, user id.UserID, i Identity) error {
	return s.unlink(ctx, user, i, func(tx *storage.Tx, a storage.AccountRow) error {
		if i.Issuer == storage.DirectoryIssuer {
			return mxerr.Forbidden("Only an administrator of this server can unlink the account from your organisation's directory")
		}
		more, err := s.hasOtherWay(tx, a, i)
		if err == nil && !more {
			err = mxerr.Forbidden("This is the only way in which you can sign in to this account: add a passkey first, or ask an administrator of this server to set a password")
		}
		return err
	})
}

// hasOtherWay reports whether a user can sign in without the given identity: with a password, a passkey or another
// identity.
func (s *Service) hasOtherWay(tx *storage.Tx, a storage.AccountRow, without Identity) (bool, error) {
	if a.HasPassword() {
		return true, nil
	}
	has, err := s.gate.Enrolled(tx, a.NID)
	if err != nil || has&gate.Passkey != 0 && s.gate.ModeOf(a) != gate.Off {
		return err == nil, err
	}
	all, err := s.identities(tx, a.NID, math.MaxInt64)
	for _, i := range all {
		if i.Service != "" && (i.Issuer != without.Issuer || i.Subject != without.Subject) {
			return true, err
		}
	}
	return false, err
}

// unlink removes an identity unless check, which is called within the write, returns an error. Browsers that are signed
// in are signed out, since some may have been signed in with it.
func (s *Service) unlink(ctx context.Context, user id.UserID, i Identity, check func(*storage.Tx, storage.AccountRow) error) error {
	return s.write(ctx, func(w *write) error {
		a, err := s.account(w.Tx, user)
		if err != nil {
			return err
		}
		if err := check(w.Tx, a); err != nil {
			return err
		}
		if err := w.DropUpstreamOf(a.NID); err != nil {
			return err
		}
		if err := w.identitiesChanged(a.NID, "an identity at "+cmp.Or(s.nameOfIssuer(i.Issuer), "another service")+" was removed"); err != nil {
			return err
		}
		w.note("identity unlinked", "user", user, "issuer", i.Issuer, "subject", i.Subject)
		found, err := w.DeleteUpstreamIdentity(storage.UpstreamIdentity{Issuer: i.Issuer, Subject: i.Subject, User: a.NID})
		if err == nil && !found {
			err = mxerr.NotFound("The user has no such identity")
		}
		return err
	})
}
