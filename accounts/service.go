// Package accounts manages local users: their passwords, devices, access and refresh tokens, registration tokens,
// user-interactive authentication, profiles and the user directory. It creates no events; the functions in Hooks pass
// changes on to rooms and encryption.
//
// A request passes through Authenticate, which reads the database once per token, and then a method of Service, which
// makes one write. When the write commits, the data that it invalidates is dropped from memory before the response is
// sent.
package accounts

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/accounts/hashing"
	"ebb/accounts/passwords"
	"ebb/audit"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// Hooks holds functions of other services that are called when accounts change. Nil functions are not called.
type Hooks struct {
	// DeviceGone deletes the data of a deleted device, within a write.
	DeviceGone func(tx *storage.Tx, device ident.DeviceNID, user ident.UserNID, deviceID string) error
	// DevicesChanged records that devices of a user changed, within a write. It returns a function to call after the
	// commit.
	DevicesChanged func(tx *storage.Tx, user ident.UserNID, devices ...string) (committed func(), err error)
	// ProfileChanged sends the display name and avatar of a user to rooms and presence.
	ProfileChanged func(ctx context.Context, nid ident.UserNID, user id.UserID, displayName, avatarURL string) error
	// ProfileCommitted is called when a write that changed a profile field has been committed. All changes up to pos
	// are committed then.
	ProfileCommitted func(user ident.UserNID, pos storage.Pos)
	// LeaveRooms makes a user leave every room and reject every invite.
	LeaveRooms func(ctx context.Context, nid ident.UserNID, user id.UserID) error
	// Erase makes users who join a room later see redacted copies of a user's events, and begins to erase everything if
	// that was requested.
	Erase func(ctx context.Context, nid ident.UserNID) error
	// Locked is called when an account has been locked or unlocked. It ends the waiting requests of a locked account.
	Locked func(user ident.UserNID, locked bool)
	// Exclusive reports whether an application service may not use a localpart, because the localpart is reserved for
	// another service or is outside the service's namespaces. If service is "", it reports whether everybody else may
	// not use it.
	Exclusive func(service, localpart string) bool
}

// Term is a document that users must accept when they register.
type Term struct{ ID, Version, Name, URL string }

// Mode is the registration mode, which determines who can register.
type Mode string

// The modes of registration.
const (
	Closed    Mode = "closed" // nobody; an administrator creates accounts
	WithToken Mode = "token"  // anybody with a registration token
	Open      Mode = "open"   // anybody
)

// Users asks application services to create unknown users. appservice.Registry implements it.
type Users interface {
	// QueryUser asks the application service whose namespaces include the user to create it, and reports whether the
	// user may exist now.
	QueryUser(ctx context.Context, user id.UserID) bool
}

// Options holds the dependencies and settings of a Service.
type Options struct {
	DB                  *storage.DB
	Server              string // this server's name
	Registration        Mode
	Terms               []Term
	Guests              bool             // whether anybody can get a guest account
	GuestLifetime       time.Duration    // how long a guest account may be unused; 0 for ever
	IdleLifetime        time.Duration    // how long a device may be unused before it is signed out; 0 for ever
	AccessTokenLifetime time.Duration    // for clients that refresh their tokens; 0 means one hour
	HashWorkers         int              // number of passwords hashed at a time, 19 MiB each; 0 means half the number of processors
	HashCommand         []string         // starts a program that hashes passwords; see hashing.NewProcesses
	Audit               *audit.Log       // nil to record nothing
	Notices             *notices.Service // nil to notify nobody
	Passwords           passwords.Policy // rules for new passwords
	Gate                *gate.Gate       // nil for one without second factors and limits
	Budgets             Budgets
	Network             func(addr string) string // returns the network of a client address; nil if networks are unknown
	Emails              EmailOptions
	Upstream            UpstreamOptions
	AccountPage         string        // address of the account page; "" if there are no web pages
	AdminApproval       time.Duration // how long a session may administrate after that was approved; 0 means 15 minutes
	SearchAllUsers      bool          // whether the user directory finds all users, not only those in shared and public rooms
	Hooks               Hooks
	Remote              Remote       // nil without federation
	Users               Users        // nil if there are no application services
	Cache               keyed.Budget // bounds the caches
	Now                 func() time.Time
	// SteadyTime is Now without a jump of the clock that may be a mistake (retention.Job.Time); nil for Now. What it
	// decides cannot be undone.
	SteadyTime func(ctx context.Context) (time.Time, error)
	Log        *slog.Logger
}

// Service manages local users. It is safe for concurrent use.
type Service struct {
	opts      Options
	gate      *gate.Gate
	hasher    *hasher
	sessions  *sessionCache
	asked     *challenges              // challenges of users
	applying  *challenges              // challenges of registrations; separate, so that strangers cannot displace those of users
	mailing   *keyed.Semaphore[string] // allows one request at a time for a link to the same address
	announcer announcer
	profiles  *keyed.Memo[id.UserID, []Field] // profiles of remote users
}

// New returns a Service.
func New(o Options) *Service {
	if o.AccessTokenLifetime == 0 {
		o.AccessTokenLifetime = time.Hour
	}
	if o.AdminApproval == 0 {
		o.AdminApproval = 15 * time.Minute
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
	if o.Gate == nil {
		o.Gate = gate.New(gate.Options{Now: o.Now})
	}
	return &Service{opts: o, gate: o.Gate, hasher: newHasher(o.HashWorkers, hashing.NewProcesses(o.HashCommand, o.Log)), sessions: newSessionCache(o.Cache.Entries(maxSessions)),
		mailing: keyed.NewSemaphore[string](1, maxMailsWaiting),
		asked:   newChallenges(o.Now), applying: newChallenges(o.Now), announcer: announcer{states: map[ident.UserNID]*announcement{}},
		profiles: newProfileMemo(o.Cache.Bytes(maxRemoteProfiles), o.Now)}
}

// RegistrationMode returns the mode, which determines who can create an account.
func (s *Service) RegistrationMode() Mode { return s.opts.Registration }

// Intervals used by Run.
const (
	seenInterval   = time.Minute // how old the stored time of a device's last request may be
	resumeInterval = time.Hour
)

// Run fills in the user directory after an upgrade, completes interrupted deactivations, deactivates unused guest
// accounts, ends sessions that lack a required second factor or are not used any more, and periodically stores when
// devices were last seen. It stores that once more when ctx ends, and returns.
func (s *Service) Run(ctx context.Context) error {
	if err := s.fillDirectory(ctx); err != nil && ctx.Err() == nil {
		s.opts.Log.Error("Cannot update the user directory; it is tried again at the next start", "err", err)
	}
	s.tidy(ctx)
	seen, resume := time.NewTicker(seenInterval), time.NewTicker(resumeInterval)
	defer seen.Stop()
	defer resume.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.StoreSeen(context.WithoutCancel(ctx))
		case <-seen.C:
			if err := s.StoreSeen(ctx); err != nil {
				s.opts.Log.Error("Cannot store when devices were last seen", "err", err)
			}
		case <-resume.C:
			s.forgetEmailSessions(ctx)
			s.tidy(ctx)
		}
	}
}

// tidy completes interrupted deactivations, deactivates unused guest accounts and ends sessions that are not used any
// more or that the policy on second factors no longer allows.
func (s *Service) tidy(ctx context.Context) {
	s.resumeDeactivations(ctx)
	if err := s.endWeakSessions(ctx); err != nil && ctx.Err() == nil {
		s.opts.Log.Error("Cannot end the sessions that lack a second factor", "err", err)
	}
	if err := s.endIdleSessions(ctx); err != nil && ctx.Err() == nil {
		s.opts.Log.Error("Cannot sign out devices that are not used any more", "err", err)
	}
	if err := s.expireGuests(ctx); err != nil && ctx.Err() == nil {
		s.opts.Log.Error("Cannot deactivate unused guest accounts", "err", err)
	}
}

// write is a transaction with functions to call after the commit.
type write struct {
	*storage.Tx
	svc       *Service
	committed []func()
	notes     []note
}

// note is a security event that is to be logged.
type note struct {
	text  string
	attrs []any
}

// note logs a security event when the write has been committed.
func (w *write) note(text string, attrs ...any) { w.notes = append(w.notes, note{text, attrs}) }

func (w *write) after(f func()) {
	if f != nil {
		w.committed = append(w.committed, f)
	}
}

// write calls do within a write transaction and waits for the commit.
func (s *Service) write(ctx context.Context, do func(*write) error) error {
	w := &write{svc: s}
	pending := s.opts.DB.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			w.Tx = tx
			if err := do(w); err != nil {
				return err
			}
			return w.record(ctx)
		},
		Committed: func() {
			for _, f := range w.committed {
				f()
			}
		},
	})
	err := pending.Wait(ctx)
	<-pending.Done() // the event is logged even if the client has disconnected
	if pending.Err() == nil {
		for _, n := range w.notes {
			s.opts.Log.InfoContext(ctx, n.text, n.attrs...)
		}
	}
	return err
}

// record adds the security events of a write to the audit log.
func (w *write) record(ctx context.Context) error {
	for _, n := range w.notes {
		if err := w.svc.opts.Audit.Add(ctx, w.Tx, n.text, n.attrs...); err != nil {
			return err
		}
	}
	return nil
}

// devicesChanged calls Hooks.DevicesChanged.
func (w *write) devicesChanged(user ident.UserNID, devices ...string) error {
	if w.svc.opts.Hooks.DevicesChanged == nil {
		return nil
	}
	committed, err := w.svc.opts.Hooks.DevicesChanged(w.Tx, user, devices...)
	w.after(committed)
	return err
}

// UserID returns the user ID for a localpart of this server.
func (s *Service) UserID(localpart string) id.UserID { return id.NewUserID(localpart, s.opts.Server) }

// secret returns a random token with n bytes of entropy and a prefix that shows its kind.
func secret(prefix string, n int) string { return gate.Secret(prefix, n) }

// letters returns n random characters of an alphabet.
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

// tokenKey identifies a token in memory and in the database.
type tokenKey = gate.TokenKey

func keyOf(token string) tokenKey { return gate.KeyOf(token) }

// Exists returns nil if a local user exists and is not deactivated. If the user is unknown, the application service
// whose namespaces include the user is asked to create it.
//
// Errors: M_NOT_FOUND, M_FORBIDDEN.
func (s *Service) Exists(ctx context.Context, user id.UserID) error {
	err := s.active(ctx, user)
	if mxerr.Code(err) == mxerr.CodeNotFound && s.opts.Users != nil && s.opts.Users.QueryUser(ctx, user) {
		return s.active(ctx, user)
	}
	return err
}

func (s *Service) active(ctx context.Context, user id.UserID) error {
	return s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, err := s.account(tx, user)
		if err == nil && a.DeactivatedTS != 0 {
			err = mxerr.Forbidden("This account has been deactivated")
		}
		return err
	})
}

func errUnknownUser() error { return mxerr.NotFound("There is no such user on this server") }

// account returns the account of a local user ID.
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
