package accounts

import (
	"context"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// An account without a password on this server may belong to a user whom another service signs in: an LDAP directory,
// which compares the password, an identity provider, or a program that issues JSON Web Tokens. Its user must not set a
// password here: that would be a way around the rules of that service, and would still work after the service has
// closed the user's account there. Administrators can set one (OverridePassword).

// hasServices reports whether any other service signs users in.
func (s *Service) hasServices() bool {
	u := s.opts.Upstream
	return u.LDAP != nil || u.JWT != nil || len(u.Providers) > 0
}

// serviceOf returns the name of the service with which the user of an account without a password signs in, or "" if
// there is none. Providers that are no longer configured do not count, since nobody can sign in with them. Accounts are
// not linked to the program that issues JSON Web Tokens, which names users; the users of accounts that have neither a
// password nor an identity elsewhere can sign in only with its tokens.
func (s *Service) serviceOf(tx *storage.Tx, a storage.AccountRow) (name string, err error) {
	if a.Password != "" || !s.hasServices() {
		return "", nil
	}
	all, err := tx.UpstreamIdentities(a.NID, maxIdentities)
	for _, i := range all {
		if name = s.nameOfIssuer(i.Issuer); name != "" {
			break
		}
	}
	if err == nil && len(all) == 0 && s.opts.Upstream.JWT != nil {
		name = tokenServiceName
	}
	return name, err
}

// The names of services in messages.
const (
	directoryName    = "your organisation's directory"       // the LDAP directory
	tokenServiceName = "your organisation's sign-in service" // the program that issues JSON Web Tokens
)

// nameOfIssuer returns the name of the service of an identity, or "" if nobody can sign in with it at present.
func (s *Service) nameOfIssuer(issuer string) string {
	if issuer != storage.DirectoryIssuer {
		return s.opts.Upstream.Providers[issuer]
	}
	if s.opts.Upstream.LDAP == nil {
		return ""
	}
	return directoryName
}

// comparesPassword reports whether an account has a password that this server or its LDAP directory compares.
func (s *Service) comparesPassword(tx *storage.Tx, a storage.AccountRow) (bool, error) {
	if a.Password != "" || s.opts.Upstream.LDAP == nil {
		return a.HasPassword(), nil
	}
	_, inLDAP, err := tx.UpstreamSubject(a.NID, storage.DirectoryIssuer)
	return inLDAP, err
}

// ComparesPassword reports whether a user can show a password to confirm who they are.
func (s *Service) ComparesPassword(ctx context.Context, user ident.UserNID) (has bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, _, err := tx.Account(user)
		if err == nil {
			has, err = s.comparesPassword(tx, a)
		}
		return err
	})
	return has, err
}

// refuseElsewhere returns an error if the user of an account signs in with another service.
//
// Errors: M_FORBIDDEN.
func (s *Service) refuseElsewhere(tx *storage.Tx, a storage.AccountRow) error {
	service, err := s.serviceOf(tx, a)
	if err == nil && service != "" {
		err = mxerr.Forbidden("This account has no password on this server: you sign in with %s. Change your password there", service)
	}
	return err
}

// PasswordElsewhere returns the name of the service with which a user signs in instead of a password of this server, or
// "" if the user can change the password here.
func (s *Service) PasswordElsewhere(ctx context.Context, user ident.UserNID) (service string, err error) {
	if !s.hasServices() {
		return "", nil
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, _, err := tx.Account(user)
		if err == nil {
			service, err = s.serviceOf(tx, a)
		}
		return err
	})
	return service, err
}
