package notices

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"time"

	"ebb/ident"
	"ebb/storage"
)

// SignIn describes a sign-in.
type SignIn struct {
	User     ident.UserNID
	Device   ident.DeviceNID // 0: a browser, on the server's own pages
	DeviceID string
	Name     string // of the device
	New      bool   // the device was created
	Quiet    bool   // nobody is notified, since the user has just registered or an administrator did it
	Network  string // the client's address or network; "": unknown
}

// Bounds of what is remembered to recognise sign-ins.
const (
	maxNetworks = 50 // networks from which a user has signed in; the oldest are forgotten
	maxDevices  = 50 // devices of a user with whose last networks a sign-in is compared
)

// SignedIn stores an alert within the write of a sign-in if the device or the network is new. It stores none for the
// first sign-in of an account, for which everything is new.
func (s *Service) SignedIn(tx *storage.Tx, in SignIn) error {
	if s == nil {
		return nil
	}
	network, newNetwork := ident.MaskedNetwork(in.Network), false
	if network != "" {
		hash := s.hashOf(network)
		known, err := tx.KnownNetworks(in.User, s.knownSince(), maxNetworks)
		if err != nil {
			return err
		}
		newNetwork = !slices.Contains(known, hash) && len(known) > 0
		if err := tx.SeeNetwork(in.User, hash, maxNetworks); err != nil {
			return err
		}
	}
	if in.Quiet || !in.New && network == "" {
		return nil
	}
	others, err := tx.RecentDevices(in.User, in.Device, maxDevices)
	if err != nil {
		return err
	}
	newNetwork = newNetwork && !slices.ContainsFunc(others, func(d storage.DeviceRow) bool { return ident.MaskedNetwork(d.SeenAddr) == network })
	newDevice := in.New && len(others) > 0
	if !newDevice && !newNetwork {
		return nil
	}
	return s.Add(tx, Notice{User: in.User, Kind: SignedIn, Device: in.Device, Details: Details{
		Device: in.DeviceID, Name: in.Name, NewDevice: newDevice, NewNetwork: newNetwork, Network: network,
	}})
}

// hashOf returns the keyed hash under which a network is stored.
func (s *Service) hashOf(network string) string {
	mac := hmac.New(sha256.New, s.networkKey)
	mac.Write([]byte(network))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// knownSince returns the start (ms) of the period in which a user must have signed in from a network for it to count as
// known.
func (s *Service) knownSince() int64 {
	if s.opts.KeepNetworks == 0 {
		return 0
	}
	return s.opts.Now().Add(-s.opts.KeepNetworks).UnixMilli()
}

// Bounds of wrong codes.
const (
	maxWrong    = 5              // wrong codes for an account within wrongWindow, after which its user is notified
	wrongWindow = 24 * time.Hour // longer than the interval of accounts/gate, so that slow guessing is noticed too
	maxCounted  = 10_000         // accounts whose wrong codes are counted
	maxBursts   = 1000           // accounts whose users are to be notified
)

// wrongCodes counts the wrong codes for an account.
type wrongCodes struct {
	since  time.Time
	number int
}

// WrongCode counts a wrong code of a second factor. After several, the user is notified: whoever enters codes knows the
// password. The count is in memory only, since nothing has happened to the account yet.
func (s *Service) WrongCode(localpart string) {
	if s == nil {
		return
	}
	burst := false
	s.wrong.Update(localpart, func(c wrongCodes, _ bool) wrongCodes {
		if now := s.opts.Now(); now.Sub(c.since) >= wrongWindow {
			c = wrongCodes{since: now}
		}
		c.number++
		burst = c.number == maxWrong
		return c
	})
	if !burst {
		return
	}
	s.mu.Lock()
	if len(s.bursts) < maxBursts && !slices.Contains(s.bursts, localpart) {
		s.bursts = append(s.bursts, localpart)
	}
	s.mu.Unlock()
	s.wake()
}

// addBursts stores the alerts about wrong codes.
func (s *Service) addBursts(ctx context.Context) error {
	s.mu.Lock()
	bursts := s.bursts
	s.bursts = nil
	s.mu.Unlock()
	if len(bursts) == 0 {
		return nil
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		for _, localpart := range bursts {
			a, found, err := tx.AccountByLocalpart(localpart)
			if err == nil && found {
				err = s.Add(tx, Notice{User: a.NID, Kind: WrongCodes})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
