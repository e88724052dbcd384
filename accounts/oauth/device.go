package oauth

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"ebb/accounts/gate"
	"ebb/mxerr"
	"ebb/storage"
)

// The device authorization grant (RFC 8628).
const (
	deviceLifetime = 15 * time.Minute
	firstPause     = 5 * time.Second // between two polls
	maxPause       = time.Minute     // to which slow_down raises it
	maxDeviceCodes = 10_000          // pending requests, about 300 bytes each
)

// userAlphabet has no vowels, so that codes are no words, and no letters that look like digits. Eight of its 20 letters
// are 34 bits: with maxDeviceCodes pending, and the limit on wrong guesses of one network, a guess takes years.
const (
	userAlphabet = "BCDFGHJKLMNPQRSTVWXZ"
	userLength   = 8
)

// OffersDeviceGrant reports whether the device authorization grant is offered.
func (s *Service) OffersDeviceGrant() bool { return s.opts.DeviceGrant }

// newUserCode returns a random user code in the form in which codes are compared: without the hyphen.
func newUserCode() string {
	var code []byte
	for len(code) < userLength {
		var b [1]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		if int(b[0]) < 256/len(userAlphabet)*len(userAlphabet) {
			code = append(code, userAlphabet[int(b[0])%len(userAlphabet)])
		}
	}
	return string(code)
}

// foldUserCode converts a code that a user has typed to the form in which codes are compared.
func foldUserCode(typed string) string {
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune(userAlphabet, c) {
			return c
		}
		return -1
	}, strings.ToUpper(typed[:min(len(typed), 64)]))
}

// DeviceCodes are the answer to a device authorization request.
type DeviceCodes struct {
	DeviceCode, UserCode string
	URL, URLComplete     string // of the page on which the user types the user code; with the code
	Expires, Interval    time.Duration
}

// StartDevice begins a device authorization. addr is the address of the client, which is shown to the user.
//
// Errors: invalid_client, unauthorized_client, invalid_scope, M_LIMIT_EXCEEDED.
func (s *Service) StartDevice(ctx context.Context, clientID, scope, addr string) (DeviceCodes, error) {
	c, err := s.client(ctx, clientID)
	if err != nil {
		return DeviceCodes{}, err
	}
	if !s.opts.DeviceGrant {
		return DeviceCodes{}, BadGrantType()
	}
	if !slices.Contains(c.GrantTypes, GrantDevice) {
		return DeviceCodes{}, invalid("unauthorized_client", "This client has not registered the grant type %s", GrantDevice)
	}
	want, err := parseScope(scope)
	if err != nil {
		return DeviceCodes{}, err
	}
	code, user := gate.Secret("ebb_d_", 32), newUserCode()
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		n, err := tx.CountOAuthDeviceCodes()
		if err == nil && n >= maxDeviceCodes {
			if err = tx.DropOAuthDeviceCodes(tx.Now().UnixMilli(), tidyBatch); err == nil {
				n, err = tx.CountOAuthDeviceCodes()
			}
		}
		if err != nil {
			return err
		}
		fresh := false
		if n < maxDeviceCodes {
			fresh, err = tx.AddOAuthDeviceCode(gate.KeyOf(code).String(), gate.KeyOf(user).String(), storage.OAuthDeviceCode{
				Client: clientID, Scope: want.Granted, DeviceID: want.DeviceID, Addr: addr,
				ExpiresTS: tx.Now().Add(deviceLifetime).UnixMilli(), Pause: firstPause.Milliseconds(),
			})
		}
		switch {
		case err != nil:
			return err
		case !fresh:
			return mxerr.LimitExceeded(time.Minute)
		}
		return s.used(tx, clientID)
	})
	shown, page := user[:4]+"-"+user[4:], s.url(PathLink)
	return DeviceCodes{code, shown, page, page + "?user_code=" + shown, deviceLifetime, firstPause}, err
}

// DeviceRequest is a pending device authorization in the form that is shown to the user.
type DeviceRequest struct {
	Client   Metadata
	Addr     string // of the client
	DeviceID string
	UserCode string
}

// Device finds the pending device authorization with the user code that somebody has typed in a browser. A wrong code
// counts as a guess from the given network.
//
// Errors: M_NOT_FOUND, M_LIMIT_EXCEEDED.
func (s *Service) Device(ctx context.Context, typed, network string) (d DeviceRequest, err error) {
	try, err := s.opts.Gate.GuessToken(gate.UserCodes, network)
	if err != nil {
		return d, err
	}
	user := foldUserCode(typed)
	var c storage.OAuthDeviceCode
	var found bool
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		c, found, err = tx.OAuthDeviceCodeOf(gate.KeyOf(user).String())
		return err
	})
	if err != nil {
		return d, err
	}
	if !found || c.State != storage.DeviceCodePending || c.ExpiresTS <= s.opts.Now().UnixMilli() {
		return d, errNoUserCode()
	}
	try.Right()
	d = DeviceRequest{Addr: c.Addr, DeviceID: c.DeviceID, UserCode: user[:4] + "-" + user[4:]}
	d.Client, err = s.client(ctx, c.Client)
	return d, err
}

func errNoUserCode() error {
	return mxerr.NotFound("There is no such code, or it has expired: look at your device for a new one")
}

// DecideDevice approves or denies the pending device authorization with the given user code, on behalf of the user who
// is signed in in the browser.
//
// Errors: M_NOT_FOUND, M_FORBIDDEN, M_LIMIT_EXCEEDED.
func (s *Service) DecideDevice(ctx context.Context, typed, session, network string, allow bool) error {
	try, err := s.opts.Gate.GuessToken(gate.UserCodes, network)
	if err != nil {
		return err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		who, found, err := tx.WebSession(gate.KeyOf(session).String())
		if err == nil && !found {
			err = mxerr.Forbidden("You have been signed out in this browser: sign in again")
		}
		if err != nil {
			return err
		}
		state := int64(storage.DeviceCodeDenied)
		if allow {
			state = storage.DeviceCodeApproved
		}
		done, err := tx.DecideOAuthDeviceCode(gate.KeyOf(foldUserCode(typed)).String(), state, who)
		if err == nil && !done {
			err = errNoUserCode()
		}
		return err
	})
	if mxerr.Code(err) != mxerr.CodeNotFound {
		try.Right()
	}
	return err
}

// PollDevice returns tokens for a device code that a user has approved.
//
// Errors: authorization_pending, slow_down, access_denied, expired_token, invalid_grant, invalid_client.
func (s *Service) PollDevice(ctx context.Context, clientID, code, network string) (Grant, error) {
	client, err := s.client(ctx, clientID)
	if err != nil {
		return Grant{}, err
	}
	hash := gate.KeyOf(code).String()
	c, answer, err := s.poll(ctx, clientID, hash)
	if err == nil && answer != nil {
		err = answer
	}
	if err != nil {
		return Grant{}, err
	}
	g, err := s.begin(ctx, start{path: gate.PathDevice, client: clientID, name: client.Title(), scope: c.Scope, device: c.DeviceID, network: network,
		user: c.User, evidence: c.Evidence, upstream: c.Upstream, use: func(tx *storage.Tx, _ string) error {
			if first, err := tx.DropOAuthDeviceCode(hash); err != nil || !first {
				return errors.Join(err, errUsed)
			}
			return nil
		}})
	if errors.Is(err, errUsed) {
		err = errNoDeviceCode()
	}
	return g, err
}

func errNoDeviceCode() *Error {
	return invalid(errGrant, "The device code is unknown, was used before or belongs to another client")
}

// poll records a poll. It returns the stored request if a user has approved it, and otherwise the error for the client
// as answer.
func (s *Service) poll(ctx context.Context, clientID, hash string) (c storage.OAuthDeviceCode, answer *Error, err error) {
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		var found bool
		if c, found, err = tx.OAuthDeviceCode(hash); err != nil {
			return err
		}
		now, pause := tx.Now().UnixMilli(), c.Pause
		switch {
		case !found || c.Client != clientID:
			answer = errNoDeviceCode()
			return nil
		case c.ExpiresTS <= now:
			answer = invalid("expired_token", "The device code has expired: start again")
			return nil
		case c.State == storage.DeviceCodeDenied:
			answer = Denied()
			return nil
		case now < c.PolledTS+c.Pause:
			pause = min(pause+firstPause.Milliseconds(), maxPause.Milliseconds())
			answer = invalid("slow_down", "Wait %d s between two requests", pause/1000)
		case c.State == storage.DeviceCodePending:
			answer = invalid("authorization_pending", "The user has not decided yet")
		}
		return tx.PollOAuthDeviceCode(hash, pause)
	})
	return c, answer, err
}
