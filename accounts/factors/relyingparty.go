package factors

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/google/uuid"

	"ebb/mxerr"
	"ebb/storage"
)

// PasskeyOptions are the settings of passkeys.
type PasskeyOptions struct {
	PublicURL   string   // where browsers open the pages of this server
	RPID        string   // the domain that passkeys are made for; "": the host of PublicURL
	AAGUIDs     []string // the models of authenticators that are allowed; none: all
	DeviceBound bool     // refuse passkeys that can be copied to other devices
}

// relyingParty verifies passkeys for this server.
type relyingParty struct {
	web         *webauthn.WebAuthn // nil if passkeys cannot be used, for the reason in why
	why         error
	rpID        string
	aaguids     []string
	deviceBound bool
}

// DefaultRPID returns the domain for which passkeys are made if none is configured: the host of the public URL. It
// returns "" if the host is an IP address, for which browsers make no passkeys.
func DefaultRPID(publicURL string) string {
	u, err := url.Parse(publicURL)
	if err != nil || net.ParseIP(u.Hostname()) != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// newRelyingParty returns the relyingParty for the given settings, which package config has checked. If the host of the
// public URL is an IP address, the server has no passkeys.
func newRelyingParty(server string, o PasskeyOptions) (relyingParty, error) {
	party := relyingParty{rpID: o.RPID, aaguids: o.AAGUIDs, deviceBound: o.DeviceBound}
	u, err := url.Parse(o.PublicURL)
	if err != nil {
		return party, fmt.Errorf("public_url: %w", err)
	}
	if party.rpID == "" {
		party.rpID = DefaultRPID(o.PublicURL)
	}
	if party.rpID == "" {
		party.why = mxerr.Forbidden("Browsers refuse passkeys on a bare address such as %s: the administrator must set public_url to a URL with a name, "+
			"such as http://localhost:8008 on a single computer", u.Hostname())
		return party, nil
	}
	party.web, err = webauthn.New(&webauthn.Config{
		RPID: party.rpID, RPDisplayName: server, RPOrigins: []string{u.Scheme + "://" + u.Host},
		AttestationPreference: protocol.PreferNoAttestation,
		// Some password managers answer what nobody has asked; nothing here depends on it.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
		Timeouts: webauthn.TimeoutsConfig{
			Login:        webauthn.TimeoutConfig{Timeout: passkeyLifetime, TimeoutUVD: passkeyLifetime},
			Registration: webauthn.TimeoutConfig{Timeout: passkeyLifetime, TimeoutUVD: passkeyLifetime},
		},
	})
	if err != nil {
		return party, fmt.Errorf("auth.passkeys.rp_id: %w", err)
	}
	return party, nil
}

// CheckRPID returns an error if the domain of passkeys has changed and existing passkeys would stop working. With
// accept, it records the new domain instead. The passkeys are kept, and work again if the domain is changed back.
func (s *Service) CheckRPID(ctx context.Context, accept bool) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		was, err := tx.PasskeyRPID()
		if err != nil || was == "" || was == s.passkeys.rpID {
			return err
		}
		lost, users, err := tx.PasskeysOfOthers(s.passkeys.rpID)
		switch {
		case err != nil:
			return err
		case lost > 0 && !accept:
			return fmt.Errorf("auth.passkeys.rp_id is now %q and was %q, for which %d passkeys of %d accounts were made: these would not work any more, "+
				"and accounts without another second factor would need an enrolment link. Set auth.passkeys.rp_id to %q, or start once with --change-rp-id",
				s.passkeys.rpID, was, lost, users, was)
		}
		return tx.SetPasskeyRPID(s.passkeys.rpID)
	})
}

// usable returns an error if a passkey is for another domain, or is not allowed by the policy.
//
// Errors: M_FORBIDDEN.
func (p *relyingParty) usable(r storage.PasskeyRow) error {
	if r.RPID != p.rpID {
		return mxerr.Forbidden("This passkey was made for %s, and this server is now %s: use another second factor", r.RPID, p.rpID)
	}
	return p.complies(r.AAGUID, protocol.AuthenticatorFlags(r.Flags))
}

// complies returns an error if the policy does not allow an authenticator. The server requests no attestation, so it
// relies on what authenticators state: the policy guides users, but does not stop somebody who builds an authenticator.
//
// Errors: M_FORBIDDEN.
func (p *relyingParty) complies(aaguid string, flags protocol.AuthenticatorFlags) error {
	switch {
	case p.deviceBound && flags.HasBackupEligible():
		return mxerr.Forbidden("This server accepts only passkeys that stay on one device, such as a security key: this one can be copied to others")
	case len(p.aaguids) > 0 && !slices.Contains(p.aaguids, aaguid):
		return mxerr.Forbidden("This server does not accept passkeys of this authenticator (model %s): ask your administrator which ones it accepts", aaguid)
	}
	return nil
}

// Passkey describes a passkey.
type Passkey struct {
	ID             string // base64url
	Name           string
	Created        time.Time
	Used           time.Time // zero: never
	Discoverable   bool      // it can sign in without a user name
	VerifiesUser   bool      // by a PIN or a finger: it can sign in without a password
	BackedUp       bool      // copied to other devices
	Model          string    // AAGUID
	CountWentBack  time.Time // zero: never; the authenticator may have been cloned then
	UnusableReason string    // "": it can be used
}

func (p *relyingParty) describe(r storage.PasskeyRow) Passkey {
	flags := protocol.AuthenticatorFlags(r.Flags)
	k := Passkey{
		ID: r.CredentialID, Name: r.Name, Created: time.UnixMilli(r.CreatedTS), Discoverable: r.Discoverable,
		VerifiesUser: flags.HasUserVerified(), BackedUp: flags.HasBackupState(), Model: r.AAGUID, Used: timeOf(r.UsedTS), CountWentBack: timeOf(r.RegressedTS),
	}
	var refused *mxerr.Error
	if errors.As(p.usable(r), &refused) {
		k.UnusableReason = refused.Msg
	}
	return k
}

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// person implements webauthn.User.
type person struct {
	handle []byte
	name   string // user ID
	rows   []storage.PasskeyRow
}

// WebAuthnID implements webauthn.User.
func (p person) WebAuthnID() []byte { return p.handle }

// WebAuthnName implements webauthn.User.
func (p person) WebAuthnName() string { return p.name }

// WebAuthnDisplayName implements webauthn.User.
func (p person) WebAuthnDisplayName() string { return p.name }

// WebAuthnCredentials implements webauthn.User.
func (p person) WebAuthnCredentials() []webauthn.Credential {
	all := make([]webauthn.Credential, 0, len(p.rows))
	for _, r := range p.rows {
		all = append(all, credentialOf(r))
	}
	return all
}

func credentialOf(r storage.PasskeyRow) webauthn.Credential {
	model, _ := uuid.Parse(r.AAGUID) // as stored by rowOf
	c := webauthn.Credential{
		ID: decode(r.CredentialID), PublicKey: decode(r.PublicKey), Flags: webauthn.NewCredentialFlags(protocol.AuthenticatorFlags(r.Flags)),
		Authenticator: webauthn.Authenticator{AAGUID: model[:], SignCount: uint32(r.SignCount)},
	}
	for _, t := range strings.FieldsFunc(r.Transports, func(c rune) bool { return c == ',' }) {
		c.Transport = append(c.Transport, protocol.AuthenticatorTransport(t))
	}
	return c
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// decode decodes what encode has stored.
func decode(s string) []byte {
	b, _ := base64.RawURLEncoding.DecodeString(s)
	return b
}
