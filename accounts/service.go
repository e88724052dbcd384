// Package accounts is who may do what in whose name: users of this server, their passwords, devices, access and refresh
// tokens, registration tokens, user-interactive authentication, profiles and the user directory. It writes no events: what
// a change means for rooms and for encryption is told by the functions in Hooks.
//
// A request travels: Authenticate (from memory; the database is asked once per token) → a method of Service → one write →
// what the write invalidates is dropped from memory when it commits, before anybody is answered.
package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/storage"
)

// Hooks is what other services do about changes of accounts. A nil function does nothing.
type Hooks struct {
	// DeviceGone removes in a write what hangs on a device that is deleted.
	DeviceGone func(tx *storage.Tx, device ident.DeviceNID, user ident.UserNID, deviceID string) error
	// DevicesChanged records in a write that these devices of a user changed, and returns what to do once it is committed.
	DevicesChanged func(tx *storage.Tx, user ident.UserNID, devices ...string) (committed func(), err error)
	// ProfileChanged tells rooms and presence the name and avatar of a user.
	ProfileChanged func(ctx context.Context, nid ident.UserNID, user id.UserID, displayName, avatarURL string) error
	// LeaveRooms takes a user out of every room and declines every invite.
	LeaveRooms func(ctx context.Context, nid ident.UserNID, user id.UserID) error
	// Erase makes a user's events redacted copies for whoever joins later.
	Erase func(ctx context.Context, nid ident.UserNID) error
	// RoomIsPublic says whether anybody may join a room or read it without joining.
	RoomIsPublic func(ctx context.Context, room ident.RoomNID) (bool, error)
	// Exclusive says whether an application service has a localpart for itself.
	Exclusive func(localpart string) bool
}

// Term is a document that people accept to register.
type Term struct{ ID, Version, Name, URL string }

// Mode says who may register.
type Mode string

// The modes of registration.
const (
	Closed    Mode = "closed" // nobody: accounts are made by the administrator
	WithToken Mode = "token"  // who has a registration token
	Open      Mode = "open"   // anybody
)

// Options is what a Service is made of.
type Options struct {
	DB                  *storage.DB
	Server              string // this server's name
	Registration        Mode
	Terms               []Term
	AccessTokenLifetime time.Duration // of clients that refresh; 0: one hour
	HashWorkers         int           // passwords hashed at once, 19 MiB each; 0: half of the processors
	Budgets             Budgets
	Network             func(addr string) string // the network of an address, as clients name theirs; nil: none is known
	Hooks               Hooks
	Remote              Remote       // nil: there are no other servers
	Cache               keyed.Budget // bounds what is remembered
	Now                 func() time.Time
	Log                 *slog.Logger
}

// Service is safe for concurrent use.
type Service struct {
	opts      Options
	hasher    *hasher
	sessions  *sessionCache
	asked     *challenges // of users
	applying  *challenges // of people who register; apart, so that strangers never push a user's challenge out
	announcer announcer
	profiles  *keyed.Memo[id.UserID, []Field] // of users of other servers
}

// New makes a Service.
func New(o Options) *Service {
	if o.AccessTokenLifetime == 0 {
		o.AccessTokenLifetime = time.Hour
	}
	if o.HashWorkers == 0 {
		o.HashWorkers = max(1, runtime.NumCPU()/2)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{opts: o, hasher: newHasher(o.HashWorkers), sessions: newSessionCache(o.Cache.Entries(maxSessions)),
		asked: newChallenges(o.Now), applying: newChallenges(o.Now), announcer: announcer{states: map[ident.UserNID]*announcement{}},
		profiles: newProfileMemo(o.Cache.Entries(maxRemoteProfiles), o.Now)}
}

// RegistrationMode returns who may create an account.
func (s *Service) RegistrationMode() Mode { return s.opts.Registration }

// Intervals of Run.
const (
	seenInterval   = time.Minute // how old the stored time of a device's last request may be
	resumeInterval = time.Hour
)

// Run completes deactivations that were interrupted, and stores now and then when devices were seen. It returns when ctx
// ends, after a last store.
func (s *Service) Run(ctx context.Context) error {
	s.resumeDeactivations(ctx)
	seen, resume := time.NewTicker(seenInterval), time.NewTicker(resumeInterval)
	defer seen.Stop()
	defer resume.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.StoreSeen(context.WithoutCancel(ctx))
		case <-seen.C:
			if err := s.StoreSeen(ctx); err != nil {
				s.opts.Log.Error("storing when devices were seen", "err", err)
			}
		case <-resume.C:
			s.resumeDeactivations(ctx)
		}
	}
}

// write is a write in progress: a transaction, and what to do once it is committed.
type write struct {
	*storage.Tx
	svc       *Service
	committed []func()
	notes     []note
}

// note is a security event, for the log.
type note struct {
	text  string
	attrs []any
}

// note has a security event logged once it is committed.
func (w *write) note(text string, attrs ...any) { w.notes = append(w.notes, note{text, attrs}) }

func (w *write) after(f func()) {
	if f != nil {
		w.committed = append(w.committed, f)
	}
}

// write runs do in one write and waits for its commit.
func (s *Service) write(ctx context.Context, do func(*write) error) error {
	w := &write{svc: s}
	pending := s.opts.DB.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			w.Tx = tx
			return do(w)
		},
		Committed: func() {
			for _, f := range w.committed {
				f()
			}
		},
	})
	err := pending.Wait(ctx)
	<-pending.Done() // what happened is logged, even if the client has gone meanwhile
	if pending.Err() == nil {
		for _, n := range w.notes {
			s.opts.Log.InfoContext(ctx, n.text, n.attrs...)
		}
	}
	return err
}

// devicesChanged tells e2ee.
func (w *write) devicesChanged(user ident.UserNID, devices ...string) error {
	if w.svc.opts.Hooks.DevicesChanged == nil {
		return nil
	}
	committed, err := w.svc.opts.Hooks.DevicesChanged(w.Tx, user, devices...)
	w.after(committed)
	return err
}

// UserID is the full id of a localpart of this server.
func (s *Service) UserID(localpart string) id.UserID { return id.NewUserID(localpart, s.opts.Server) }

// secret makes a random text of n bytes of entropy with a prefix that tells what it is.
func secret(prefix string, n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// letters makes a random text of n characters of an alphabet.
func letters(alphabet string, n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)] // 32 letters: no bias
	}
	return string(b)
}

const (
	upperAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	lowerAlphabet = "abcdefghijklmnopqrstuvwxyz234567"
)

// tokenKey names a token in memory; the token itself is not kept.
type tokenKey [sha256.Size]byte

func keyOf(token string) tokenKey { return sha256.Sum256([]byte(token)) }

// String is the form in the database.
func (k tokenKey) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// Exists wants a user of this server who can take part.
//
// Errors: M_NOT_FOUND, M_FORBIDDEN.
func (s *Service) Exists(ctx context.Context, user id.UserID) error {
	return s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.account(tx, user)
		if err == nil && a.DeactivatedTS != 0 {
			err = mxerr.Forbidden("This account has been deactivated")
		}
		return err
	})
}

func errUnknownUser() error { return mxerr.NotFound("There is no such user on this server") }

// account finds the account of a user id of this server.
//
// Errors: M_NOT_FOUND.
func (s *Service) account(tx *storage.Tx, user id.UserID) (storage.AccountRow, error) {
	localpart, server, err := user.Parse()
	if err != nil || server != s.opts.Server {
		return storage.AccountRow{}, errUnknownUser()
	}
	a, found, err := tx.AccountByLocalpart(localpart)
	if err != nil {
		return a, fmt.Errorf("read account %s: %w", user, err)
	}
	if !found {
		return a, errUnknownUser()
	}
	return a, nil
}
