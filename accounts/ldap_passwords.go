package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"ebb/accounts/ldap"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// comparePassword reports whether a password is that of an account. If the account has a password here, only that one
// is compared. The password of an account that is linked to the LDAP directory is in the directory, and so may be that
// of an unknown name, whose first sign-in creates the account. comparePassword returns the account of the user.
//
// Errors: M_LIMIT_EXCEEDED; 502 M_CONNECTION_FAILED if the directory cannot be asked.
func (s *Service) comparePassword(ctx context.Context, a storage.AccountRow, password string) (storage.AccountRow, bool, error) {
	name, err := s.nameInLDAP(ctx, a)
	if err != nil {
		return a, false, err
	}
	if name == "" {
		good, err := s.hasher.verify(ctx, password, a.Password)
		return a, good, err
	}
	p, good, err := s.opts.Upstream.LDAP.Check(ctx, name, password)
	if errors.Is(err, ldap.ErrUnavailable) {
		s.opts.Log.ErrorContext(ctx, "Cannot check a password with the LDAP directory", "err", err)
		return a, false, mxerr.New(http.StatusBadGateway, mxerr.CodeConnectionFailed, "The directory that keeps the passwords cannot be reached; try again later").Because(err)
	}
	if err != nil || !good {
		return a, false, err
	}
	return s.accountOfPerson(ctx, a, p)
}

// nameInLDAP returns the name with which to check the password of an account in the LDAP directory, or "" if the
// directory does not have it.
func (s *Service) nameInLDAP(ctx context.Context, a storage.AccountRow) (name string, err error) {
	switch {
	case s.opts.Upstream.LDAP == nil || a.Password != "" || a.DeactivatedTS != 0:
		return "", nil
	case a.NID == 0:
		return a.Localpart, nil
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		name, _, err = tx.UpstreamSubject(a.NID, storage.DirectoryIssuer)
		return err
	})
	return name, err
}

// accountOfPerson returns the account of a user of the LDAP directory who has given the password, creating it at the
// first sign-in if the configuration says so. It reports whether the user can use the account: an account that exists
// here is not given to a user of the directory who happens to have its name.
func (s *Service) accountOfPerson(ctx context.Context, named storage.AccountRow, p ldap.Person) (storage.AccountRow, bool, error) {
	i := Identity{Issuer: storage.DirectoryIssuer, Subject: foldName(p.Name)}
	a, found, err := s.accountOfIdentity(ctx, i)
	switch {
	case err != nil:
		return named, false, err
	case found:
		return a, named.NID == 0 || named.NID == a.NID, nil
	case named.NID != 0 || !s.opts.Upstream.LDAPCreate:
		s.opts.Log.InfoContext(ctx, "a user of the LDAP directory has no account", "name", p.Name)
		return named, false, nil
	}
	a, err = s.createNamed(ctx, NewAccount{Username: p.Name, DisplayName: p.DisplayName, KnownEmail: p.Email, Identity: &i})
	if e := (*mxerr.Error)(nil); errors.As(err, &e) && e.Status < http.StatusInternalServerError {
		if a, found, err = s.accountOfIdentity(ctx, i); err != nil || found { // created by another sign-in in the meantime
			return a, found, err
		}
		s.opts.Log.WarnContext(ctx, "cannot create the account of a user of the LDAP directory", "name", p.Name, "reason", e.Msg)
		return named, false, nil
	}
	return a, err == nil, err
}

// accountOfIdentity returns the account to which an identity belongs. Closed accounts have none.
func (s *Service) accountOfIdentity(ctx context.Context, i Identity) (a storage.AccountRow, found bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		row, known, err := tx.UpstreamIdentity(i.Issuer, i.Subject)
		if err == nil && known {
			a, found, err = tx.Account(row.User)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("read the account of an identity: %w", err)
	}
	return a, found, err
}

// addKnownEmail adds an address that another service vouches for to a new account, if accounts may have it and no
// account has it yet.
func (s *Service) addKnownEmail(w *write, text string, user ident.UserNID) error {
	address, err := parseEmail(text)
	if text == "" || err != nil || !s.HasEmail() || !s.opts.Emails.allowsDomain(address) {
		return nil //nolint:nilerr // the account gets no address
	}
	now := w.Now().UnixMilli()
	_, err = w.AddEmail(storage.EmailRow{Address: address, User: user, AddedTS: now, ValidatedTS: now})
	return err
}
