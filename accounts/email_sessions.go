package accounts

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mail"
	"ebb/mxerr"
	"ebb/storage"
)

// A verification proves that a client's user can read the mail sent to an address. The client requests a link
// (RequestEmail) and gets a session ID. The owner of the address follows the link (ConfirmEmail). Then the client uses
// the session ID together with its own secret. A verification is for one purpose only, so that somebody who confirms an
// address for a new account does not allow a password to be reset.

// EmailPurpose is the purpose for which an address is verified.
type EmailPurpose string

// The purposes of a verification.
const (
	EmailForAccount  EmailPurpose = "register"
	EmailToAdd       EmailPurpose = "add"
	EmailForPassword EmailPurpose = "password"
)

// Bounds of verifications.
const (
	emailLifetime    = time.Hour // lifetime of a link, and after it was followed, of the verification
	maxEmailGuesses  = 5         // wrong tokens for one verification
	maxClientSecret  = 255       // in characters, as specified
	maxNextLink      = 2000      // in bytes
	maxMailsWaiting  = 4         // waiting requests for a link to the same address
	emailTokenLength = 32        // bytes of randomness in a link
)

// EmailRequest is a request for a link that verifies an address.
type EmailRequest struct {
	Purpose      EmailPurpose
	Address      string
	ClientSecret string
	SendAttempt  int64
	NextLink     string // where the owner of the address continues afterwards, or ""
	Network      string // the client's network, for Budgets
}

// RequestEmail sends a verification link to an address, and returns the ID of the session. It sends nothing if it has
// already sent a link for this attempt or a later one. Unless the server is configured to reveal which addresses belong
// to accounts, the response does not depend on that; if the address cannot be used, its owner gets an e-mail without a
// link.
//
// Errors: M_THREEPID_MEDIUM_NOT_SUPPORTED, M_THREEPID_DENIED, M_THREEPID_IN_USE, M_THREEPID_NOT_FOUND, M_INVALID_PARAM,
// M_LIMIT_EXCEEDED; 502 M_UNKNOWN if the e-mail could not be sent.
func (s *Service) RequestEmail(ctx context.Context, q EmailRequest) (sid string, err error) {
	if q.Address, err = s.checkEmailRequest(q); err != nil {
		return "", err
	}
	release, err := s.mailing.Acquire(ctx, q.Address)
	if errors.Is(err, keyed.ErrBusy) {
		return "", mxerr.LimitExceeded(5 * time.Second)
	} else if err != nil {
		return "", err
	}
	defer release()
	v, holder, err := s.emailSession(ctx, q)
	if err != nil {
		return "", err
	}
	if v.ValidatedTS != 0 || q.SendAttempt <= v.SendAttempt {
		return v.SID, nil
	}
	if err := s.countEmail(q); err != nil {
		return "", err
	}
	if err := s.sendLink(ctx, q, v, holder); err != nil {
		return "", err
	}
	err = s.write(ctx, func(w *write) error { return w.SetEmailSendAttempt(v.SID, q.SendAttempt) })
	return v.SID, err
}

// checkEmailRequest returns the canonical address of a request for a link.
func (s *Service) checkEmailRequest(q EmailRequest) (address string, err error) {
	o := s.opts.Emails
	if !s.HasEmail() {
		return "", errNotOffered("e-mail addresses")
	}
	if q.Purpose == EmailForAccount && s.registrationEmail() == EmailOff {
		return "", mxerr.New(http.StatusForbidden, mxerr.CodeThreepidDenied, "Accounts on this server are created without an e-mail address")
	}
	if err := checkClientSecret(q.ClientSecret); err != nil {
		return "", err
	}
	if err := checkNextLink(q.NextLink); err != nil {
		return "", err
	}
	if address, err = parseEmail(q.Address); err != nil {
		return "", err
	}
	if q.Purpose != EmailForPassword && !o.allowsDomain(address) {
		return "", mxerr.New(http.StatusForbidden, mxerr.CodeThreepidDenied, "This server accepts only addresses at %s", strings.Join(o.Domains, ", "))
	}
	return address, nil
}

// checkClientSecret checks the grammar of a client's secret or of a session ID.
func checkClientSecret(text string) error {
	inGrammar := func(c rune) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune(".=_-", c)
	}
	if text == "" {
		return mxerr.MissingParam("client_secret is missing")
	}
	if len(text) > maxClientSecret || strings.ContainsFunc(text, func(c rune) bool { return !inGrammar(c) }) {
		return mxerr.InvalidParam("client_secret must have at most %d characters, all of them 0-9, a-z, A-Z or .=_-", maxClientSecret)
	}
	return nil
}

// checkNextLink checks the address of the page to which a user continues after following the link in a verification
// e-mail.
func checkNextLink(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || len(text) > maxNextLink || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return mxerr.InvalidParam("next_link must be an http or https URL of at most %d bytes", maxNextLink)
	}
	return nil
}

// emailHolder is the account that has an address.
type emailHolder struct {
	user    id.UserID // "": none
	service string    // the service with which the user signs in instead of a password of this server; "": none
}

// emailSession returns the session of a client, creating it if necessary, and the account that has the address. A new
// session has no token yet.
func (s *Service) emailSession(ctx context.Context, q EmailRequest) (v storage.EmailSession, holder emailHolder, err error) {
	hash := keyOf(q.ClientSecret).String()
	found, held := false, false
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if v, found, err = tx.EmailSessionOfClient(q.Address, hash, string(q.Purpose)); err != nil {
			return err
		}
		var nid ident.UserNID
		if holder.user, nid, held, err = s.userOfEmail(tx, q.Address); err != nil || !held {
			return err
		}
		a, _, err := tx.Account(nid)
		if err == nil {
			holder.service, err = s.serviceOf(tx, a)
		}
		return err
	})
	switch {
	case err != nil:
		return v, holder, err
	case s.opts.Emails.Reveal && held && q.Purpose != EmailForPassword:
		return v, holder, errEmailInUse()
	case s.opts.Emails.Reveal && !held && q.Purpose == EmailForPassword:
		return v, holder, errNoSuchEmail()
	case !found:
		v = storage.EmailSession{SID: secret("", 16), Purpose: string(q.Purpose), Address: q.Address, SecretHash: hash, SendAttempt: -1}
	}
	return v, holder, nil
}

// countEmail counts an e-mail for its recipient, for the network that requests it, and in total.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) countEmail(q EmailRequest) error {
	var counted gate.Guess // never removed
	b := s.opts.Budgets
	if err := counted.Take(b.MailsTo, q.Address); err != nil {
		return err
	}
	if err := counted.Take(b.MailsFrom, q.Network); err != nil {
		return err
	}
	return counted.Take(b.Mails, "")
}

// sendLink stores a new token for a session and sends it. If the address cannot be used for the purpose, it sends an
// e-mail without a link.
//
// Errors: M_INVALID_PARAM if the SMTP server refuses the address; 502 M_UNKNOWN if it fails.
func (s *Service) sendLink(ctx context.Context, q EmailRequest, v storage.EmailSession, holder emailHolder) error {
	token := secret("", emailTokenLength)
	v.NextLink, v.Wrong, v.ExpiresTS = q.NextLink, 0, s.opts.Now().Add(emailLifetime).UnixMilli()
	usable := (holder.user != "") == (q.Purpose == EmailForPassword) && (holder.service == "" || q.Purpose != EmailForPassword)
	if v.TokenHash = ""; usable {
		v.TokenHash = keyOf(token).String()
	}
	if err := s.write(ctx, func(w *write) error { return w.PutEmailSession(v) }); err != nil {
		return err
	}
	link := strings.TrimSuffix(s.opts.Emails.PublicURL, "/") + EmailLinkPath + "?" + url.Values{"sid": {v.SID}, "token": {token}}.Encode()
	m := linkMessage(s.opts.Server, q.Purpose, holder, link)
	m.To = q.Address
	err := s.opts.Emails.Sender.Send(ctx, m)
	switch {
	case errors.Is(err, mail.ErrRefused):
		return mxerr.InvalidParam("The e-mail could not be delivered to this address").Because(err)
	case err != nil:
		return mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The e-mail could not be sent; try again later").Because(err)
	}
	return nil
}

// EmailLinkPath is the path of the page behind a link.
const EmailLinkPath = "/_matrix/client/unstable/ebb/email/verify"

// EmailLink describes a link that somebody has followed.
type EmailLink struct {
	Purpose   EmailPurpose
	Address   string
	NextLink  string
	Confirmed bool
}

func errBadLink() error {
	return mxerr.NotFound("This link is no longer valid. A link works for one hour, and if you were sent several, only the newest one works. Ask for another one where you asked for this one.")
}

// EmailLink returns the purpose of a link without confirming it, because programs that check links in e-mails follow
// them too.
//
// Errors: M_NOT_FOUND.
func (s *Service) EmailLink(ctx context.Context, sid, token string) (EmailLink, error) {
	var v storage.EmailSession
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		v, err = findLink(tx, sid, token)
		return err
	})
	if err != nil {
		return EmailLink{}, err
	}
	return EmailLink{Purpose: EmailPurpose(v.Purpose), Address: v.Address, NextLink: v.NextLink, Confirmed: v.ValidatedTS != 0}, nil
}

// findLink returns the session of a link.
//
// Errors: M_NOT_FOUND.
func findLink(tx *storage.Tx, sid, token string) (storage.EmailSession, error) {
	v, found, err := tx.EmailSession(sid)
	if err != nil {
		return v, err
	}
	if !found || v.Wrong >= maxEmailGuesses || !sameHash(v.TokenHash, token) {
		return v, errBadLink()
	}
	return v, nil
}

// sameHash reports whether stored is the hash of the given secret. The time it takes does not depend on the secret.
func sameHash(stored, secret string) bool {
	return subtle.ConstantTimeCompare([]byte(stored), []byte(keyOf(secret).String())) == 1
}

// ConfirmEmail records that the owner of an address has followed the link.
//
// Errors: M_NOT_FOUND.
func (s *Service) ConfirmEmail(ctx context.Context, sid, token string) (link EmailLink, err error) {
	bad := false
	err = s.write(ctx, func(w *write) error {
		v, err := findLink(w.Tx, sid, token)
		if mxerr.Code(err) == mxerr.CodeNotFound {
			bad = true
			return w.CountWrongEmailToken(sid)
		} else if err != nil {
			return err
		}
		link = EmailLink{Purpose: EmailPurpose(v.Purpose), Address: v.Address, NextLink: v.NextLink, Confirmed: true}
		if v.ValidatedTS != 0 {
			return nil
		}
		w.note("e-mail address verified", "address", v.Address, "for", v.Purpose)
		return w.ValidateEmailSession(sid, w.Now().Add(emailLifetime).UnixMilli())
	})
	if err == nil && bad {
		err = errBadLink()
	}
	return link, err
}

// EmailCredentials identifies the verification that a client uses.
type EmailCredentials struct {
	SID          string `json:"sid"`
	ClientSecret string `json:"client_secret"`
	purpose      EmailPurpose
}

// Verified is a verification whose link has been followed.
type Verified struct {
	Address     string
	sid         string
	purpose     string
	validatedTS int64 // in ms
}

func errNotVerified() error {
	return mxerr.New(http.StatusBadRequest, mxerr.CodeThreepidAuthFailed, "The e-mail address is not verified: follow the link in the message first")
}

// CheckEmail checks a verification with which a client wants to add an address to an account.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_THREEPID_AUTH_FAILED.
func (s *Service) CheckEmail(ctx context.Context, creds EmailCredentials) (Verified, error) {
	if !s.HasEmail() {
		return Verified{}, errNotOffered("e-mail addresses")
	}
	if creds.purpose == "" {
		creds.purpose = EmailToAdd
	}
	v, state, err := s.verified(ctx, creds)
	if err == nil && state != verifiedYes {
		err = errNotVerified()
	}
	return v, err
}

// verification says how far the verification of an e-mail address has got.
type verification int

const (
	verifiedUnknown verification = iota // it does not exist or has expired, or the secret is wrong
	verifiedNot                         // the link has not been followed yet
	verifiedYes
)

// verified looks up the verification that the credentials identify, and returns its result and state.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM.
func (s *Service) verified(ctx context.Context, creds EmailCredentials) (out Verified, state verification, err error) {
	if creds.SID == "" {
		return out, 0, mxerr.MissingParam("sid is missing")
	}
	if err := checkClientSecret(creds.ClientSecret); err != nil {
		return out, 0, err
	}
	var v storage.EmailSession
	found := false
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		v, found, err = tx.EmailSession(creds.SID)
		return err
	})
	switch {
	case err != nil || !found || v.Purpose != string(creds.purpose) || !sameHash(v.SecretHash, creds.ClientSecret):
		return out, verifiedUnknown, err
	case v.ValidatedTS == 0:
		return out, verifiedNot, nil
	}
	return Verified{Address: v.Address, sid: v.SID, purpose: v.Purpose, validatedTS: v.ValidatedTS}, verifiedYes, nil
}

// checkEmail checks the stage m.login.email.identity.
// Spec: client-server-api#email-based-identity--homeserver
func (s *Service) checkEmail(ctx context.Context, at tried) (p proof, refused *mxerr.Error, err error) {
	creds := at.auth.Creds
	if creds.SID == "" {
		creds = at.auth.OldCreds
	}
	if creds.purpose = EmailForPassword; at.operation == registering {
		creds.purpose = EmailForAccount
	}
	v, state, err := s.verified(ctx, creds)
	switch {
	case err != nil:
		return p, nil, err
	case state == verifiedUnknown:
		return p, errUnknownVerification(), nil
	case state == verifiedNot:
		return p, mxerr.New(http.StatusUnauthorized, mxerr.CodeSessionNotValidated, "The e-mail address is not verified yet: follow the link in the message"), nil
	}
	return proof{email: &v}, nil, nil
}

func errUnknownVerification() *mxerr.Error {
	return mxerr.New(http.StatusUnauthorized, mxerr.CodeThreepidAuthFailed, "This verification of an e-mail address is unknown or has expired; ask for another link")
}

// forgetEmailSessions deletes expired verifications.
func (s *Service) forgetEmailSessions(ctx context.Context) {
	if err := s.write(ctx, func(w *write) error { return w.DeleteExpiredEmailSessions() }); err != nil && ctx.Err() == nil {
		s.opts.Log.Error("Cannot delete expired verifications of e-mail addresses", "err", err)
	}
}
