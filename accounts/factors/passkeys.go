package factors

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Bounds of passkeys.
const (
	maxPasskeys     = 20       // of an account
	maxPasskeyName  = 100      // bytes
	maxResponse     = 32 << 10 // of a browser, bytes; one has about 1 KiB
	maxPublicKey    = 1 << 10  // bytes; an RSA key of 4,096 bits has 540
	maxCredentialID = 1023     // bytes, by the specification
	handleLength    = 32       // random bytes by which authenticators know an account
)

// algorithms lists the signature algorithms in order of preference. Every authenticator supports one of them.
var algorithms = []protocol.CredentialParameter{
	{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgES256},
	{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgEdDSA},
	{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgRS256},
}

// Ceremony is a WebAuthn ceremony that has begun.
type Ceremony struct {
	ID      string          // for completing it; the caller binds it to a session
	Options json.RawMessage // {"publicKey": …}, for navigator.credentials.create or get
}

// NewPasskey describes the passkey to be set up.
type NewPasskey struct {
	Name         string // chosen by the user
	Passwordless bool   // whether it must be able to sign in without a password
}

// registration is the data of a challenge of kindRegister.
type registration struct {
	Session webauthn.SessionData
	Name    string
}

// BeginRegistration begins to set up a passkey.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED, M_INVALID_PARAM.
func (s *Service) BeginRegistration(ctx context.Context, g Grant, n NewPasskey) (c Ceremony, err error) {
	if s.passkeys.web == nil {
		return c, s.passkeys.why
	}
	if n.Name, err = passkeyName(n.Name); err != nil {
		return c, err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := s.mayEnrol(tx, g); err != nil {
			return err
		}
		if err := giveHandle(tx, g.User); err != nil {
			return err
		}
		user, err := s.person(tx, g.User)
		switch {
		case err != nil:
			return err
		case len(user.rows) >= maxPasskeys && g.Link == "":
			return mxerr.Forbidden("The account has %d passkeys, and cannot have more: remove one first", maxPasskeys)
		}
		options, session, err := s.passkeys.web.BeginRegistration(user, registrationOptions(user, n, g.Link != "")...)
		if err != nil {
			return fmt.Errorf("begin to set up a passkey: %w", err)
		}
		c, err = ceremony(tx, kindRegister, g.User, "", options, registration{*session, n.Name})
		return err
	})
	return c, err
}

// registrationOptions returns the options of a registration. Authenticators that already have a passkey of the user are
// excluded, unless the new passkey replaces them.
func registrationOptions(user person, n NewPasskey, replaces bool) []webauthn.RegistrationOption {
	selection := protocol.AuthenticatorSelection{ResidentKey: protocol.ResidentKeyRequirementPreferred, UserVerification: protocol.VerificationPreferred}
	if n.Passwordless {
		selection = protocol.AuthenticatorSelection{ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: protocol.ResidentKeyRequired(), UserVerification: protocol.VerificationRequired}
	}
	options := []webauthn.RegistrationOption{
		webauthn.WithAuthenticatorSelection(selection), webauthn.WithCredentialParameters(algorithms), webauthn.WithExtensions(webauthn.WithExtensionCredProps()),
	}
	if !replaces {
		options = append(options, webauthn.WithExclusions(webauthn.Credentials(user.WebAuthnCredentials()).CredentialDescriptors()))
	}
	return options
}

// passkeyName returns the name of a passkey without space around it.
//
// Errors: M_INVALID_PARAM.
func passkeyName(name string) (string, error) {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		return "Passkey", nil
	case len(name) > maxPasskeyName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", mxerr.InvalidParam("The name of a passkey must be text of at most %d bytes", maxPasskeyName)
	}
	return name, nil
}

// giveHandle gives a user a handle, if the user has none yet.
func giveHandle(tx *storage.Tx, user ident.UserNID) error {
	_, found, err := tx.PasskeyHandle(user)
	if err != nil || found {
		return err
	}
	raw := make([]byte, handleLength)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return tx.AddPasskeyHandle(user, encode(raw))
}

// person returns a user with the passkeys that were made for this domain.
func (s *Service) person(tx *storage.Tx, user ident.UserNID) (p person, err error) {
	if p.name, err = tx.UserID(user); err != nil {
		return p, err
	}
	handle, _, err := tx.PasskeyHandle(user)
	if err != nil {
		return p, err
	}
	p.handle = decode(handle)
	rows, err := tx.Passkeys(user, maxPasskeys)
	p.rows = slices.DeleteFunc(rows, func(r storage.PasskeyRow) bool { return r.RPID != s.passkeys.rpID })
	return p, err
}

// ceremony stores the data against which the answer to options will be checked.
func ceremony(tx *storage.Tx, kind string, user ident.UserNID, network string, options, data any) (c Ceremony, err error) {
	if c.Options, err = json.Marshal(options); err != nil {
		return c, err
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return c, err
	}
	c.ID, err = begin(tx, kind, user, network, string(raw), passkeyLifetime)
	return c, err
}

// badAnswer returns the error for an answer of a browser that is malformed or does not belong to the challenge.
func badAnswer(err error) error {
	var e *protocol.Error
	if errors.As(err, &e) && e.DevInfo != "" {
		err = fmt.Errorf("%w (%s)", err, e.DevInfo)
	}
	return mxerr.Forbidden("The passkey was not accepted: try it again").Because(err)
}

// FinishRegistration sets up a passkey from the browser's answer.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED, M_TOO_LARGE.
func (s *Service) FinishRegistration(ctx context.Context, g Grant, id string, answer []byte) (out Enrolled, err error) {
	if s.passkeys.web == nil {
		return out, s.passkeys.why
	}
	var (
		c    storage.FactorChallenge
		user person
	)
	err = s.read(ctx, func(tx *storage.Tx) (err error) {
		if c, err = challenge(tx, id, kindRegister, g.User); err != nil {
			return err
		}
		user, err = s.person(tx, g.User)
		return err
	})
	if err != nil {
		return out, err
	}
	row, shown, err := s.passkeys.verifyNew(c, user, answer)
	if err != nil {
		return out, err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := complete(tx, c); err != nil {
			return err
		}
		if err := s.enrol(ctx, tx, g); err != nil {
			return err
		}
		if err := s.addPasskey(tx, row); err != nil {
			return err
		}
		out, err = s.enrolled(ctx, tx, g, shown, row.Name)
		return err
	})
	return out, err
}

// addPasskey stores a new passkey. If it is the server's first one, addPasskey also records its domain.
//
// Errors: M_FORBIDDEN.
func (s *Service) addPasskey(tx *storage.Tx, row storage.PasskeyRow) error {
	rows, err := tx.Passkeys(row.User, maxPasskeys)
	switch {
	case err != nil:
		return err
	case len(rows) >= maxPasskeys:
		return mxerr.Forbidden("The account has %d passkeys, and cannot have more: remove one first", maxPasskeys)
	}
	added, err := tx.AddPasskey(row)
	switch {
	case err != nil:
		return err
	case !added: // IDs are random, so only a forged one can repeat
		return mxerr.Forbidden("This passkey is set up already")
	}
	was, err := tx.PasskeyRPID()
	if err != nil || was != "" {
		return err
	}
	return tx.SetPasskeyRPID(s.passkeys.rpID)
}

// verifyNew checks the answer to a registration.
//
// Errors: M_FORBIDDEN, M_TOO_LARGE.
func (p *relyingParty) verifyNew(c storage.FactorChallenge, user person, answer []byte) (row storage.PasskeyRow, shown gate.Evidence, err error) {
	var begun registration
	if err := json.Unmarshal([]byte(c.Data), &begun); err != nil {
		return row, 0, fmt.Errorf("read a begun registration: %w", err)
	}
	if len(answer) > maxResponse {
		return row, 0, mxerr.TooLarge("The answer of the browser is too large")
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return row, 0, badAnswer(err)
	}
	object := parsed.Response.AttestationObject
	switch data := object.AuthData.AttData; {
	case object.Format != string(protocol.AttestationFormatNone) && object.Format != string(protocol.AttestationFormatPacked):
		// Browsers remove attestation that was not requested, except self attestation. Refusing the other formats keeps
		// hostile input away from the code that parses them.
		return row, 0, badAnswer(fmt.Errorf("attestation of the format %.20q", object.Format))
	case len(data.CredentialPublicKey) > maxPublicKey || len(data.CredentialID) > maxCredentialID:
		return row, 0, badAnswer(errors.New("the public key or the credential ID is too long"))
	}
	made, err := p.web.CreateCredential(user, begun.Session, parsed)
	if err != nil {
		return row, 0, badAnswer(err)
	}
	row, err = p.rowOf(made, c.User, begun.Name)
	if err != nil {
		return row, 0, badAnswer(err)
	}
	if err := p.complies(row.AAGUID, made.Flags.ProtocolValue()); err != nil {
		return row, 0, err
	}
	shown = gate.SecurityKey
	if made.Flags.UserVerified {
		shown |= gate.Passkey
	}
	return row, shown, nil
}

// maxTransports is the maximum length of the transports stored with a passkey, in bytes. Seven are defined, with names
// of at most ten letters.
const maxTransports = 100

// rowOf returns the stored form of a new credential.
func (p *relyingParty) rowOf(made *webauthn.Credential, user ident.UserNID, name string) (storage.PasskeyRow, error) {
	model, err := uuid.FromBytes(made.Authenticator.AAGUID)
	if err != nil {
		return storage.PasskeyRow{}, err
	}
	var transports []string
	for _, t := range made.Transport {
		transports = append(transports, string(t))
	}
	row := storage.PasskeyRow{
		CredentialID: encode(made.ID), User: user, RPID: p.rpID, Name: name, PublicKey: encode(made.PublicKey), AAGUID: model.String(),
		Transports: strings.Join(transports, ","), Flags: int64(made.Flags.ProtocolValue()), SignCount: int64(made.Authenticator.SignCount),
		Discoverable: made.Extensions.RK != nil && *made.Extensions.RK,
	}
	if len(row.Transports) > maxTransports || !utf8.ValidString(row.Transports) || strings.ContainsRune(row.Transports, 0) {
		row.Transports = "" // a hint only
	}
	return row, nil
}

// RenamePasskey renames a passkey.
//
// Errors: M_NOT_FOUND, M_INVALID_PARAM.
func (s *Service) RenamePasskey(ctx context.Context, user ident.UserNID, credentialID, name string) error {
	name, err := passkeyName(name)
	if err != nil {
		return err
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		there, err := tx.RenamePasskey(user, credentialID, name)
		if err == nil && !there {
			err = errNoPasskey()
		}
		return err
	})
}

func errNoPasskey() error { return mxerr.NotFound("The account does not have this passkey") }

// RemovePasskey removes a passkey.
//
// Errors: M_FORBIDDEN, M_USER_LOCKED, M_NOT_FOUND.
func (s *Service) RemovePasskey(ctx context.Context, g Grant, credentialID string) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		a, err := s.mayChange(tx, g)
		if err != nil {
			return err
		}
		row, _, err := tx.Passkey(credentialID)
		if err != nil {
			return err
		}
		there, err := tx.DeletePasskey(g.User, credentialID)
		switch {
		case err != nil:
			return err
		case !there:
			return errNoPasskey()
		}
		return s.removed(ctx, tx, g, a, gate.SecurityKey, row.Name)
	})
}
