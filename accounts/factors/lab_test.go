package factors

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/storage/storagetest"
)

var ctx = context.Background()

// noon is when the tests begin, in the middle of a time step.
var noon = time.Unix(1_750_000_005, 0)

// ring is a Sealer with keys in memory, the current one last.
type ring struct{ keys []cipher.AEAD }

func (r *ring) rotate(t testing.TB) {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	r.keys = append(r.keys, a)
}

func (r *ring) Seal(row string, plain []byte) (string, error) {
	n := len(r.keys) - 1
	return string(rune('a'+n)) + b64(r.keys[n].Seal(nil, nil, plain, []byte(row))), nil
}

func (r *ring) Open(row, sealed string) ([]byte, error) {
	n := int(sealed[0] - 'a')
	if n >= len(r.keys) {
		return nil, errors.New("no such key")
	}
	return r.keys[n].Open(nil, nil, decode(sealed[1:]), []byte(row))
}

func (r *ring) Stale(sealed string) bool { return int(sealed[0]-'a') != len(r.keys)-1 }

// acts is a Journal in memory.
type acts struct {
	mu     sync.Mutex
	list   []Act
	failed []string // users and reasons
}

func (a *acts) Failed(_ context.Context, user, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = append(a.failed, user+": "+reason)
}

func (a *acts) Record(_ context.Context, _ *storage.Tx, act Act) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, act)
	return nil
}

func (a *acts) count(kind Kind) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, act := range a.list {
		if act.Kind == kind {
			n++
		}
	}
	return n
}

// lab is a database with two users. Alice has a session.
type lab struct {
	*Service
	t          *testing.T
	db         *storage.DB
	ms         atomic.Int64
	gate       *gate.Gate
	keys       ring
	acts       acts
	alice, bob ident.UserNID
	device     ident.DeviceNID
}

const grace = 7 * 24 * time.Hour

// each runs a test on each kind of database, with second factors as given.
func each(t *testing.T, mode gate.Mode, f func(t *testing.T, l *lab)) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) { f(t, newLab(t, dsn, mode)) })
}

func newLab(t *testing.T, dsn string, mode gate.Mode) *lab {
	l := &lab{t: t}
	l.ms.Store(noon.UnixMilli())
	l.db = storagetest.Open(t, storage.Config{DSN: dsn, Now: l.now})
	l.write(func(tx *storage.Tx) (err error) {
		for name, nid := range map[string]*ident.UserNID{"alice": &l.alice, "bob": &l.bob} {
			if *nid, err = tx.UserNID("@" + name + ":example.org"); err != nil {
				return err
			}
			if _, err = tx.AddAccount(storage.AccountRow{NID: *nid, Localpart: name}, ""); err != nil {
				return err
			}
		}
		l.device, err = tx.AddDevice(l.alice, "DEVICE", nil)
		return err
	})
	l.gate = gate.New(gate.Options{Policy: gate.Policy{MFA: mode, Grace: grace}, Factors: Enrolment{}, Now: l.now})
	if err := l.gate.Load(ctx, l.db); err != nil {
		t.Fatal(err)
	}
	l.keys.rotate(t)
	l.Service = l.service(PasskeyOptions{})
	return l
}

// service returns a service with other settings of passkeys.
func (l *lab) service(o PasskeyOptions) *Service {
	l.t.Helper()
	if o.PublicURL == "" {
		o.PublicURL = "https://chat.example.org"
	}
	s, err := New(Options{DB: l.db, Gate: l.gate, Sealer: &l.keys, Journal: &l.acts, Server: "example.org", Passkeys: o, Now: l.now})
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) now() time.Time { return time.UnixMilli(l.ms.Load()) }

func (l *lab) advance(d time.Duration) { l.ms.Add(d.Milliseconds()) }

func (l *lab) write(f func(*storage.Tx) error) {
	l.t.Helper()
	if err := l.db.Write(ctx, f); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) read(f func(*storage.Tx) error) {
	l.t.Helper()
	if err := l.db.Read(ctx, f); err != nil {
		l.t.Fatal(err)
	}
}

// weak and strong are grants of alice's session, in which a password was shown, and a second factor.
func (l *lab) weak() Grant { return Grant{User: l.alice, Shown: gate.Password, Device: l.device} }

func (l *lab) strong() Grant {
	return Grant{User: l.alice, Shown: gate.Password | gate.TOTP, Device: l.device}
}

func (l *lab) codeAt(secret string, at time.Time) string {
	l.t.Helper()
	code, err := totp.GenerateCode(secret, at)
	if err != nil {
		l.t.Fatal(err)
	}
	return code
}

// enrolTOTP sets up one-time codes and returns their secret. The clock then shows the next step.
func (l *lab) enrolTOTP(g Grant) (secret string, out Enrolled) {
	l.t.Helper()
	e, err := l.BeginTOTP(ctx, g)
	if err != nil {
		l.t.Fatal(err)
	}
	out, err = l.ConfirmTOTP(ctx, g, e.ID, l.codeAt(e.Secret, l.now()))
	if err != nil {
		l.t.Fatal(err)
	}
	l.advance(totpPeriod * time.Second)
	return e.Secret, out
}

// enrolKey sets up a passkey.
func (l *lab) enrolKey(g Grant, k *key) Enrolled {
	l.t.Helper()
	c, err := l.BeginRegistration(ctx, g, NewPasskey{})
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := l.FinishRegistration(ctx, g, c.ID, k.create(c))
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// check uses a passkey as alice's second factor.
func (l *lab) check(s *Service, k *key) (gate.Evidence, error) {
	c, err := s.BeginCheck(ctx, l.alice, gate.Password)
	if err != nil {
		return 0, err
	}
	return s.FinishCheck(ctx, l.alice, c.ID, k.get(c))
}

// signIn signs in with a passkey alone.
func (l *lab) signIn(k *key) (ident.UserNID, gate.Evidence, error) {
	c, err := l.BeginSignIn(ctx, "192.0.2.1")
	if err != nil {
		return 0, 0, err
	}
	return l.FinishSignIn(ctx, c.ID, k.get(c))
}

func (l *lab) enrolled(user ident.UserNID) (e gate.Evidence) {
	l.t.Helper()
	l.read(func(tx *storage.Tx) (err error) {
		e, err = Enrolment{}.Enrolled(tx, user)
		return err
	})
	return e
}

// refused fails the test unless err is a refusal whose text contains words.
func refused(t *testing.T, err error, words string) {
	t.Helper()
	if mxerr.Code(err) != mxerr.CodeForbidden || !strings.Contains(err.Error(), words) {
		t.Errorf("got %v, want a refusal with %q", err, words)
	}
}

// race calls f five times at the same time and returns the number of calls without an error. The others must have been
// refused.
func race(t *testing.T, f func() error) (won int) {
	t.Helper()
	errs := make([]error, 5)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			<-start
			errs[i] = f()
		})
	}
	close(start)
	wg.Wait()
	for _, err := range errs {
		if err == nil {
			won++
		} else if mxerr.Code(err) != mxerr.CodeForbidden {
			t.Errorf("a second use: %v", err)
		}
	}
	return won
}

// evidence returns what was shown in alice's session.
func (l *lab) evidence() (e gate.Evidence) {
	l.t.Helper()
	l.read(func(tx *storage.Tx) error {
		n, err := tx.Evidence(l.device)
		e = gate.Evidence(n)
		return err
	})
	return e
}
