package factors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// verified is the flag for user verification (bit 2). It is stored with a passkey once the authenticator has verified
// its user at the registration, or together with another factor.
const verified = protocol.FlagUserVerified

// BeginCheck begins the check of a passkey of a known user. shown is the evidence that the user has presented so far.
//
// Errors: M_FORBIDDEN.
func (s *Service) BeginCheck(ctx context.Context, user ident.UserNID, shown gate.Evidence) (c Ceremony, err error) {
	if s.passkeys.web == nil {
		return c, s.passkeys.why
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		p, err := s.person(tx, user)
		if err != nil {
			return err
		}
		usable := p.rows[:0:0]
		for _, r := range p.rows {
			if s.passkeys.usable(r) == nil {
				usable = append(usable, r)
			}
		}
		if p.rows = usable; len(usable) == 0 {
			return mxerr.Forbidden("The account has no passkey that can be used here: use another second factor")
		}
		// Without another factor, the PIN may be one that a thief has set.
		trusted := shown.First() || shown.TwoFactors()
		options, session, err := s.passkeys.web.BeginLogin(p, webauthn.WithUserVerification(protocol.VerificationPreferred), webauthn.WithLoginAuthorizeUVInitialization(trusted))
		if err != nil {
			return fmt.Errorf("begin to check a passkey: %w", err)
		}
		c, err = ceremony(tx, kindSecond, user, "", options, session)
		return err
	})
	return c, err
}

// BeginSignIn begins a sign-in without a user name. network is the client's.
//
// Errors: M_FORBIDDEN.
func (s *Service) BeginSignIn(ctx context.Context, network string) (c Ceremony, err error) {
	if s.passkeys.web == nil {
		return c, s.passkeys.why
	}
	options, session, err := s.passkeys.web.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return c, fmt.Errorf("begin to sign in with a passkey: %w", err)
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		c, err = ceremony(tx, kindSignIn, 0, network, options, session)
		return err
	})
	return c, err
}

// FinishCheck checks the browser's answer to BeginCheck.
//
// Errors: M_FORBIDDEN, M_TOO_LARGE.
func (s *Service) FinishCheck(ctx context.Context, user ident.UserNID, id string, answer []byte) (gate.Evidence, error) {
	_, shown, err := s.finish(ctx, kindSecond, user, id, answer)
	return shown, err
}

// FinishSignIn checks the browser's answer to BeginSignIn and returns the user. The authenticator must have verified
// its user, both now and before.
//
// Errors: M_FORBIDDEN, M_TOO_LARGE.
func (s *Service) FinishSignIn(ctx context.Context, id string, answer []byte) (ident.UserNID, gate.Evidence, error) {
	return s.finish(ctx, kindSignIn, 0, id, answer)
}

// answered is a browser's answer with the data against which it is checked.
type answered struct {
	challenge storage.FactorChallenge
	parsed    *protocol.ParsedCredentialAssertionData
	row       storage.PasskeyRow
	user      person
}

// finish checks the browser's answer and, if it is correct, uses the challenge up.
func (s *Service) finish(ctx context.Context, kind string, user ident.UserNID, id string, answer []byte) (ident.UserNID, gate.Evidence, error) {
	if s.passkeys.web == nil {
		return 0, 0, s.passkeys.why
	}
	parsed, err := parse(answer)
	if err != nil {
		return 0, 0, err
	}
	a := answered{parsed: parsed}
	if err := s.read(ctx, func(tx *storage.Tx) error { return s.load(tx, &a, kind, user, id) }); err != nil {
		return 0, 0, err
	}
	used, shown, err := s.passkeys.verify(a)
	if err != nil {
		return 0, 0, errors.Join(err, s.failedCheck(ctx, a))
	}
	if err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return s.use(ctx, tx, a, used) }); err != nil {
		return 0, 0, err
	}
	return a.row.User, shown, nil
}

// failedCheck records an answer that is not signed by the passkey of a user who has shown the password. Such answers
// are not limited like codes, since nobody guesses a signature, and a limit would let whoever knows the password lock
// the user out.
func (s *Service) failedCheck(ctx context.Context, a answered) error {
	if a.challenge.Kind != kindSecond {
		return nil
	}
	return s.failed(ctx, a.row.User, "wrong answer of a passkey")
}

// parse parses the answer of a browser.
//
// Errors: M_FORBIDDEN, M_TOO_LARGE.
func parse(answer []byte) (*protocol.ParsedCredentialAssertionData, error) {
	if len(answer) > maxResponse {
		return nil, mxerr.TooLarge("The answer of the browser is too large")
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return nil, badAnswer(err)
	}
	return parsed, nil
}

// load reads the data against which an answer is checked.
//
// Errors: M_FORBIDDEN.
func (s *Service) load(tx *storage.Tx, a *answered, kind string, user ident.UserNID, id string) (err error) {
	if a.challenge, err = challenge(tx, id, kind, user); err != nil {
		return err
	}
	row, found, err := tx.Passkey(encode(a.parsed.RawID))
	switch {
	case err != nil:
		return err
	case !found || user != 0 && row.User != user:
		return mxerr.Forbidden("This server does not know the passkey: it was removed from the account, or belongs to another one")
	}
	if err := s.passkeys.usable(row); err != nil {
		return err
	}
	a.row = row
	a.user, err = s.person(tx, row.User)
	return err
}

// verify checks the signature of an answer. It returns the updated credential and the evidence.
//
// Errors: M_FORBIDDEN.
func (p *relyingParty) verify(a answered) (*webauthn.Credential, gate.Evidence, error) {
	var session webauthn.SessionData
	if err := json.Unmarshal([]byte(a.challenge.Data), &session); err != nil {
		return nil, 0, fmt.Errorf("read a begun check: %w", err)
	}
	before := protocol.AuthenticatorFlags(a.row.Flags).HasUserVerified()
	now := a.parsed.Response.AuthenticatorData.Flags.HasUserVerified()
	var (
		used *webauthn.Credential
		err  error
	)
	if a.challenge.Kind == kindSignIn {
		if !before {
			return nil, 0, mxerr.Forbidden("This passkey had no PIN when it was set up: enter your user name and password, and use it as a second factor")
		}
		used, err = p.web.ValidateDiscoverableLogin(func(_, handle []byte) (webauthn.User, error) {
			if string(handle) != string(a.user.handle) {
				return nil, errors.New("the handle is that of another account")
			}
			return a.user, nil
		}, session, a.parsed)
	} else {
		a.user.rows = a.allowed(session)
		used, err = p.web.ValidateLogin(a.user, session, a.parsed)
	}
	if err != nil {
		return nil, 0, badAnswer(err)
	}
	shown := gate.SecurityKey
	if before && now {
		shown |= gate.Passkey
	}
	return used, shown, nil
}

// allowed returns the user's passkeys for which the challenge was made. Others may have been added since.
func (a answered) allowed(session webauthn.SessionData) (rows []storage.PasskeyRow) {
	for _, r := range a.user.rows {
		for _, id := range session.AllowedCredentialIDs {
			if encode(id) == r.CredentialID {
				rows = append(rows, r)
			}
		}
	}
	return rows
}

// use uses up the challenge and records the use of the passkey.
//
// Errors: M_FORBIDDEN.
func (s *Service) use(ctx context.Context, tx *storage.Tx, a answered, used *webauthn.Credential) error {
	if err := complete(tx, a.challenge); err != nil {
		return err
	}
	row, found, err := tx.Passkey(a.row.CredentialID)
	switch {
	case err != nil:
		return err
	case !found || row.PublicKey != a.row.PublicKey:
		return mxerr.Forbidden("The passkey has just been removed from the account")
	}
	count := int64(a.parsed.Response.AuthenticatorData.Counter)
	if count <= row.SignCount && (count != 0 || row.SignCount != 0) {
		if err := s.record(ctx, tx, Act{Kind: CountWentBack, User: row.User, Factor: gate.SecurityKey, Name: row.Name}); err != nil {
			return err
		}
	}
	// A simultaneous use may have set verified, which must not be lost.
	flags := used.Flags.ProtocolValue() | protocol.AuthenticatorFlags(row.Flags)&verified
	_, err = tx.UsePasskey(row.User, row.CredentialID, int64(flags), count)
	return err
}
