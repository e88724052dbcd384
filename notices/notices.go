// Package notices sends messages from the server to its users: alerts about what happens to their accounts, and what
// administrators write. Each user has a room of server notices, which the server's own account creates and to which it
// invites the user. Alerts are also sent by e-mail to users who have addresses.
//
// A notice begins as a row of the table notices. The row is added in the same write as the change that the notice is
// about, so that no alert is lost and nothing waits for its delivery. Run, the only owner of these rows, delivers them:
// the write of the message also marks the row as sent, so that each notice is in the room exactly once, even after a
// crash. An e-mail may be sent twice after a crash.
//
// An alert contains a link with which the user says "this was not me". Package accounts does what follows, and web has
// the page.
package notices

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mail"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/storage/pace"
	"ebb/wake"
)

// Mailer sends e-mail. It is implemented by mail.Sender.
type Mailer interface {
	Send(ctx context.Context, m mail.Message) error
}

// Alerts says which alerts are sent.
type Alerts struct {
	SignIns    bool // sign-ins from new devices and networks
	Changes    bool // changes of passwords, second factors, e-mail addresses, linked identities and cross-signing keys
	Suspicious bool // several wrong codes, and refresh tokens that are used again
	Email      bool // alerts are also sent by e-mail
}

// Options are the dependencies and settings of a Service.
type Options struct {
	DB           *storage.DB
	Rooms        *rooms.Service
	Server       string // this server's name
	Localpart    string // of the account that sends notices; "": nothing is sent to rooms
	RoomName     string
	PublicURL    string // the server's address in links
	Alerts       Alerts
	Mail         Mailer        // nil: no e-mail is sent
	KeepNetworks time.Duration // how long a network is known after a user has last signed in from it
	Now          func() time.Time
	// Timer starts a timer for Run. The channel receives a value after d unless stop is called first.
	Timer func(d time.Duration) (c <-chan time.Time, stop func())
	Log   *slog.Logger
}

// Service stores and delivers notices. It is safe for concurrent use. A nil Service sends nothing.
type Service struct {
	opts       Options
	networkKey []byte // the key with which networks are hashed
	toRooms    chan struct{}
	toMail     chan struct{}
	pace       *pace.Pace // of Deliver
	wrong      *keyed.Map[string, wrongCodes]

	// mu guards bursts; a leaf lock.
	mu     sync.Mutex
	bursts []string // localparts of accounts with several wrong codes, of which the users are to be notified
}

// New returns a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timer == nil {
		o.Timer = wake.Timer
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		opts: o, networkKey: o.DB.Secret("known networks"), toRooms: make(chan struct{}, 1), toMail: make(chan struct{}, 1), pace: o.DB.Pace(1),
		wrong: keyed.NewMap[string, wrongCodes](maxCounted),
	}
}

// Kind is a kind of notice.
type Kind string

// The kinds of notices. They are stored.
const (
	SignedIn          Kind = "sign-in"
	PasswordChanged   Kind = "password"
	FactorChanged     Kind = "factor"
	EmailChanged      Kind = "email"
	IdentityChanged   Kind = "identity"
	CrossSigningReset Kind = "cross-signing"
	WrongCodes        Kind = "wrong-codes"
	TokenReused       Kind = "refresh-token"
	Recovered         Kind = "recovered"
	Announcement      Kind = "announcement" // written by an administrator
)

// wanted reports whether the settings allow notices of a kind.
func (a Alerts) wanted(k Kind) bool {
	switch k {
	case SignedIn:
		return a.SignIns
	case PasswordChanged, FactorChanged, EmailChanged, IdentityChanged, CrossSigningReset:
		return a.Changes
	case WrongCodes, TokenReused:
		return a.Suspicious
	}
	return true
}

// Details describes what a notice is about. It is stored as JSON.
type Details struct {
	Text       string `json:"text,omitempty"`        // of an Announcement
	What       string `json:"what,omitempty"`        // what was done, such as "added: a passkey"
	Device     string `json:"device,omitempty"`      // device ID of the session
	Name       string `json:"name,omitempty"`        // of the device
	NewDevice  bool   `json:"new_device,omitempty"`  // the device was not known
	NewNetwork bool   `json:"new_network,omitempty"` // the network was not known
	Network    string `json:"network,omitempty"`     // shown on the page of the link only, since messages outlive it
	Account    string `json:"account,omitempty"`     // another account that the notice is about
	More       bool   `json:"more,omitempty"`        // later notices of this kind will be left out for a while
}

// Notice is a notice to one user.
type Notice struct {
	User    ident.UserNID
	Kind    Kind
	Device  ident.DeviceNID // the session that the link of an alert ends; 0: none
	Details Details
	MailTo  string // an address to which it is sent although the account does not have it any more; "": none
}

// Bounds of the notices of one user.
const (
	maxPerHour = 5   // of each kind of alert; the last one says that there may be more
	maxWaiting = 100 // that are not delivered yet
	maxMails   = 5   // e-mail addresses to which an alert is sent
	maxText    = 16 << 10
)

// Add stores a notice within the write of the change that it is about. The notice is delivered in the background.
// Alerts that the settings exclude, and those beyond the bounds of one user, are not stored.
func (s *Service) Add(tx *storage.Tx, n Notice) error {
	if s == nil || !s.opts.Alerts.wanted(n.Kind) {
		return nil
	}
	row := storage.Notice{User: n.User, Kind: string(n.Kind), Priority: priority(n.Kind), Device: n.Device, InRoom: s.opts.Localpart != ""}
	if n.Kind != Announcement {
		number, err := tx.CountNotice(n.User, row.Kind, tx.Now().Add(-time.Hour).UnixMilli())
		if err != nil || number > maxPerHour {
			return err
		}
		n.Details.More = number == maxPerHour
		if row.MailTo, err = s.addresses(tx, n); err != nil {
			return err
		}
	}
	waiting, err := tx.CountNotices(n.User)
	if err != nil || waiting >= maxWaiting || !row.InRoom && row.MailTo == "" {
		return err
	}
	details, err := json.Marshal(n.Details)
	if err != nil {
		return err
	}
	row.Details = string(details)
	if err := tx.AddNotice(row); err != nil {
		return err
	}
	s.wake()
	return nil
}

// AddFirst is like Add, but does nothing if the same write has added a notice of the same kind.
func (s *Service) AddFirst(tx *storage.Tx, n Notice) error {
	if s == nil {
		return nil
	}
	added, err := tx.NoticeAddedNow(n.User, string(n.Kind))
	if err != nil || added {
		return err
	}
	return s.Add(tx, n)
}

// priority returns the place of a kind in the order of delivery, lowest first. Alerts overtake what an administrator
// sends to everybody.
func priority(k Kind) int64 {
	if k == Announcement {
		return 1
	}
	return 0
}

// addresses returns the addresses to which an alert is sent, separated by spaces.
func (s *Service) addresses(tx *storage.Tx, n Notice) (string, error) {
	if s.opts.Mail == nil || !s.opts.Alerts.Email {
		return "", nil
	}
	rows, err := tx.Emails(n.User, maxMails)
	if err != nil {
		return "", err
	}
	var list []string
	if n.MailTo != "" {
		list = append(list, n.MailTo)
	}
	for _, r := range rows {
		if r.Address != n.MailTo {
			list = append(list, r.Address)
		}
	}
	return strings.Join(list, " "), nil
}

// wake wakes Run. The write that wakes it may not be committed yet; Deliver and SendMail wait for it.
func (s *Service) wake() {
	for _, c := range []chan struct{}{s.toRooms, s.toMail} {
		select {
		case c <- struct{}{}:
		default: // it has been woken already
		}
	}
}

// maxAdministrators bounds the administrators who are notified of the recovery of one of them.
const maxAdministrators = 100

// AddForAdministrators adds a notice for every administrator.
func (s *Service) AddForAdministrators(tx *storage.Tx, n Notice) error {
	if s == nil {
		return nil
	}
	all, err := tx.Administrators(maxAdministrators)
	for _, user := range all {
		if err == nil {
			n.User = user
			err = s.Add(tx, n)
		}
	}
	return err
}

// errNoSender returns the error for a server that sends no notices to rooms.
func errNoSender() error {
	return mxerr.Forbidden("This server sends no notices: set notices.localpart")
}

// sendBatch is the number of users to whom one write sends an announcement.
const sendBatch = 200

// Announce sends a text to a user, or to all users of this server if user is "". It returns the number of users.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_NOT_FOUND, M_FORBIDDEN.
func (s *Service) Announce(ctx context.Context, user id.UserID, text string) (sent int, err error) {
	text = strings.TrimSpace(text)
	switch {
	case s.opts.Localpart == "":
		return 0, errNoSender()
	case text == "":
		return 0, mxerr.MissingParam("The text is missing")
	case len(text) > maxText || !utf8.ValidString(text):
		return 0, mxerr.InvalidParam("The text must be valid UTF-8 of at most %d bytes", maxText)
	}
	n := Notice{Kind: Announcement, Details: Details{Text: text}}
	if user == "" {
		return s.announceToAll(ctx, n)
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		if n.User, err = s.recipient(tx, user); err != nil {
			return err
		}
		return s.Add(tx, n)
	})
	return 1, err
}

// recipient returns the number of a user to whom administrators can send notices.
func (s *Service) recipient(tx *storage.Tx, user id.UserID) (ident.UserNID, error) {
	nid, found, err := tx.LookupUser(string(user))
	if err != nil {
		return 0, err
	}
	a := storage.AccountRow{}
	if found {
		a, found, err = tx.Account(nid)
	}
	if err == nil && (!found || a.DeactivatedTS != 0 || a.Guest || s.isSender(a)) {
		err = mxerr.NotFound("This server has no active user %s", user)
	}
	return nid, err
}

func (s *Service) announceToAll(ctx context.Context, n Notice) (sent int, err error) {
	for after, more := "", true; more && err == nil; {
		batch := 0
		err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			rows, err := tx.ListAccounts(after, sendBatch)
			more, batch = len(rows) == sendBatch, 0
			for _, a := range rows {
				after = a.Localpart
				if a.DeactivatedTS != 0 || a.Guest || s.isSender(a) {
					continue
				}
				if n.User, batch = a.NID, batch+1; err == nil {
					err = s.Add(tx, n)
				}
			}
			return err
		})
		sent += batch
	}
	return sent, err
}

func (s *Service) isSender(a storage.AccountRow) bool { return a.Localpart == s.opts.Localpart }

// Reserves reports whether a localpart is that of the account that sends notices, which nobody else can register.
func (s *Service) Reserves(localpart string) bool {
	return s != nil && s.opts.Localpart != "" && strings.EqualFold(localpart, s.opts.Localpart)
}

// Check returns an error if the account that is to send notices belongs to somebody else.
func (s *Service) Check(ctx context.Context) error {
	if s.opts.Localpart == "" {
		return nil
	}
	return s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, found, err := tx.AccountByLocalpart(s.opts.Localpart)
		if err != nil || !found {
			return err
		}
		own, err := tx.IsNoticeSender(a.NID)
		if err == nil && !own {
			err = fmt.Errorf("notices.localpart: the account @%s:%s belongs to a user: choose another name for the account that sends server notices", s.opts.Localpart, s.opts.Server)
		}
		return err
	})
}
