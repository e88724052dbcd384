package factors

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// LinkPath is the path of the page behind a link. Its query has the token.
const LinkPath = "/_ebb/account/enrol"

// linkLifetime is how long an enrolment link works.
const linkLifetime = 24 * time.Hour

// Link is a link from an administrator with which a user sets up a second factor after the grace period, or after
// losing all factors. An account has at most one. It works once, and the new factor replaces all former ones.
type Link struct {
	User    id.UserID
	NID     ident.UserNID
	By      id.UserID // the administrator; "": somebody on the host
	Created time.Time
	Expires time.Time
}

func linkOf(r storage.EnrolLinkRow) Link {
	return Link{User: id.UserID(r.UserID), NID: r.User, By: id.UserID(r.MadeBy), Created: time.UnixMilli(r.CreatedTS), Expires: time.UnixMilli(r.ExpiresTS)}
}

func errNoLink() error {
	return mxerr.Forbidden("The link has expired, was used already or was replaced by a newer one: ask an administrator of this server for another")
}

// NewLink makes a link for a user, replacing the former one, and returns its token. The zero requester stands for the
// command line. Only the command line can make links for administrators.
//
// Errors: M_NOT_FOUND, M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) NewLink(ctx context.Context, by ident.Requester, user id.UserID) (token string, l Link, err error) {
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		a, err := s.accountByID(tx, user)
		switch {
		case err != nil:
			return err
		case by.UserNID != 0 && !by.IsAdmin:
			return mxerr.Forbidden("Only administrators can make links")
		case by.UserNID != 0 && a.Admin:
			return mxerr.Forbidden("Links for administrators can only be made with the command line")
		}
		token, l, err = s.NewLinkIn(ctx, tx, by.UserID, a.NID)
		return err
	})
	return token, l, err
}

// Recover makes a link for an administrator. It is for the command line, because it needs access to the host. The act
// Recovered is recorded, so that every administrator is notified.
//
// Errors: M_NOT_FOUND, M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) Recover(ctx context.Context, user id.UserID) (token string, l Link, err error) {
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		a, err := s.accountByID(tx, user)
		switch {
		case err != nil:
			return err
		case !a.Admin:
			return mxerr.Forbidden("%s is not an administrator: make an enrolment link instead", user)
		}
		if token, l, err = s.NewLinkIn(ctx, tx, "", a.NID); err != nil {
			return err
		}
		return s.record(ctx, tx, Act{Kind: Recovered, User: a.NID})
	})
	return token, l, err
}

// NewLinkIn makes a link within a write, such as the one that creates the account: where a second factor is required, a
// new account can set up its first one only with a link.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) NewLinkIn(ctx context.Context, tx *storage.Tx, by id.UserID, user ident.UserNID) (token string, l Link, err error) {
	if _, err := s.account(tx, user); err != nil {
		return "", l, err
	}
	token = gate.Secret("ebb_e_", 32)
	if err := tx.PutEnrolLink(user, hashOf(token), string(by), tx.Now().Add(linkLifetime).UnixMilli()); err != nil {
		return "", l, err
	}
	row, _, err := tx.EnrolLink(hashOf(token))
	if err != nil {
		return "", l, err
	}
	return token, linkOf(row), s.record(ctx, tx, Act{Kind: LinkMade, User: user, By: by})
}

// AllowSignUp lets a user who is creating an account on the pages, within the write that creates it, set up the first
// second factor of the account after showing the password or a sign-in by an identity provider, within 24 hours and
// until the account has had a token, even where the grace period is over. Otherwise somebody whose browser was closed
// in between would need an administrator. It does nothing for accounts that need no link.
func (s *Service) AllowSignUp(tx *storage.Tx, a storage.AccountRow) error {
	needed, err := s.opts.Gate.NeedsSecond(tx, a)
	if err != nil || !needed {
		return err
	}
	user, err := tx.UserID(a.NID)
	if err != nil {
		return err
	}
	return tx.PutEnrolLink(a.NID, hashOf(gate.Secret("", 32)), user, tx.Now().Add(linkLifetime).UnixMilli()) // nobody has its token
}

// signingUp reports whether AllowSignUp lets the user of an account set up the first second factor. An account that has
// had a token has no such link any more (gate.Pass.Tokens).
func (s *Service) signingUp(tx *storage.Tx, user ident.UserNID) (bool, error) {
	rows, err := tx.EnrolLinks(user-1, 1)
	return err == nil && len(rows) == 1 && rows[0].User == user && rows[0].MadeBy == rows[0].UserID, err
}

// MayEnrol reports whether a grant permits adding a second factor.
func (s *Service) MayEnrol(ctx context.Context, g Grant) (may bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error { return s.mayEnrol(tx, g) })
	if code := mxerr.Code(err); code == mxerr.CodeForbidden || code == mxerr.CodeUserLocked {
		return false, nil
	}
	return err == nil, err
}

// accountByID returns the account of a user ID, if it may have second factors.
//
// Errors: M_NOT_FOUND, M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) accountByID(tx *storage.Tx, user id.UserID) (storage.AccountRow, error) {
	nid, found, err := tx.LookupUser(string(user))
	if err == nil && found {
		_, found, err = tx.Account(nid)
	}
	switch {
	case err != nil:
		return storage.AccountRow{}, err
	case !found:
		return storage.AccountRow{}, mxerr.NotFound("This server has no user %s", user)
	}
	return s.account(tx, nid)
}

// OpenLink returns the link of a token. It does not use the link up, since mail scanners and previews also open links.
//
// Errors: M_FORBIDDEN.
func (s *Service) OpenLink(ctx context.Context, token string) (l Link, err error) {
	err = s.read(ctx, func(tx *storage.Tx) error {
		row, found, err := tx.EnrolLink(hashOf(token))
		if err == nil && !found {
			err = errNoLink()
		}
		l = linkOf(row)
		return err
	})
	return l, err
}

// Links returns a page of the links that still work, ordered by user: at most limit of those after the given user.
func (s *Service) Links(ctx context.Context, after ident.UserNID, limit int) (links []Link, err error) {
	err = s.read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.EnrolLinks(after, limit)
		for _, r := range rows {
			links = append(links, linkOf(r))
		}
		return err
	})
	return links, err
}

// RevokeLink revokes the link of a user.
//
// Errors: M_NOT_FOUND.
func (s *Service) RevokeLink(ctx context.Context, by id.UserID, user id.UserID) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		nid, found, err := tx.LookupUser(string(user))
		if err == nil && found {
			found, err = tx.DeleteEnrolLink(nid)
		}
		switch {
		case err != nil:
			return err
		case !found:
			return mxerr.NotFound("There is no link for %s", user)
		}
		return s.record(ctx, tx, Act{Kind: LinkRevoked, User: nid, By: by})
	})
}

// enrol checks, within the write that stores a new factor, that a grant permits it. If the grant has a link, enrol uses
// it up, removes the former factors, which are lost and may have been found by others, and signs out all browsers.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED.
func (s *Service) enrol(ctx context.Context, tx *storage.Tx, g Grant) error {
	if err := s.mayEnrol(tx, g); err != nil || g.Link == "" {
		return err
	}
	taken, err := tx.TakeEnrolLink(g.User, hashOf(g.Link))
	if err != nil {
		return err
	}
	if !taken {
		return errNoLink()
	}
	has, err := Enrolment{}.Enrolled(tx, g.User)
	if err != nil || has == 0 {
		return err
	}
	if err := tx.DeleteFactors(g.User); err != nil {
		return err
	}
	if err := endOthers(tx, g); err != nil {
		return err
	}
	return s.record(ctx, tx, Act{Kind: FactorsReset, User: g.User, Factor: has})
}
