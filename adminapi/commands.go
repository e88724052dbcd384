package adminapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/history"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/retention"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// UserArgs are the arguments of the commands "user …". Each command uses only some of them.
type UserArgs struct {
	User     string `json:"user"` // @localpart:server, or the localpart
	Password string `json:"password,omitempty"`
	Hash     string `json:"hash,omitempty"`    // for user passwd: a bcrypt hash instead of a password
	Service  bool   `json:"service,omitempty"` // for user add: an account for a program, without password
	Admin    bool   `json:"admin,omitempty"`
	SignOut  bool   `json:"sign_out,omitempty"`
	Erase    bool   `json:"erase,omitempty"`
	// Everything is for user erase: also remove the user's messages, media and names.
	Everything bool `json:"everything,omitempty"`
}

// User is an account in the result of the command "user list".
type User struct {
	User        id.UserID `json:"user"`
	Created     time.Time `json:"created"`
	Admin       bool      `json:"admin"`
	Deactivated bool      `json:"deactivated"`
	Locked      bool      `json:"locked"`
	Suspended   bool      `json:"suspended"`
	Guest       bool      `json:"guest"`
	MFA         string    `json:"mfa,omitempty"` // the account's own policy on second factors; absent if it has that of the server
}

// userID converts a user ID or a localpart to a user ID.
func (a *API) userID(text string) (id.UserID, error) {
	if text == "" {
		return "", mxerr.MissingParam("The user is missing")
	}
	if strings.HasPrefix(text, "@") {
		return id.UserID(text), nil
	}
	return a.Accounts.UserID(text), nil
}

func (a *API) userAdd(ctx context.Context, u UserArgs) (any, error) {
	localpart := strings.TrimSuffix(strings.TrimPrefix(u.User, "@"), ":"+a.Config.ServerName)
	if strings.Contains(localpart, ":") {
		return nil, mxerr.InvalidParam("Accounts can only be created on this server: use a name such as alice, or @alice:%s", a.Config.ServerName)
	}
	if localpart == "" {
		return nil, mxerr.MissingParam("The user is missing")
	}
	made, err := a.Accounts.Create(ctx, accounts.NewAccount{Username: localpart, Password: u.Password, Admin: u.Admin, NoPassword: u.Service})
	return User{User: made.User, Created: a.Now(), Admin: u.Admin}, err
}

func (a *API) userPasswd(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	if u.Hash != "" {
		return struct{}{}, a.Accounts.SetPasswordHash(ctx, user, u.Hash)
	}
	return struct{}{}, a.Accounts.OverridePassword(ctx, user, u.Password, u.SignOut)
}

func (a *API) userAdmin(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Accounts.SetAdmin(ctx, user, u.Admin)
}

func (a *API) userDeactivate(ctx context.Context, u UserArgs) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Accounts.Deactivate(ctx, user, accounts.ErasureOf(u.Erase, false))
}

func (a *API) userLock(ctx context.Context, u UserArgs) (any, error) {
	return a.setLocked(ctx, u, true)
}

func (a *API) userUnlock(ctx context.Context, u UserArgs) (any, error) {
	return a.setLocked(ctx, u, false)
}

func (a *API) setLocked(ctx context.Context, u UserArgs, locked bool) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Accounts.SetLocked(ctx, ident.Requester{}, user, locked)
}

func (a *API) userSuspend(ctx context.Context, u UserArgs) (any, error) {
	return a.setSuspended(ctx, u, true)
}

func (a *API) userUnsuspend(ctx context.Context, u UserArgs) (any, error) {
	return a.setSuspended(ctx, u, false)
}

func (a *API) setSuspended(ctx context.Context, u UserArgs, suspended bool) (any, error) {
	user, err := a.userID(u.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Accounts.SetSuspended(ctx, ident.Requester{}, user, suspended)
}

// Token is a registration token. If the field Token is empty in the arguments of the command "token create", a token is
// generated.
type Token struct {
	Token     string     `json:"token"`
	Uses      *int64     `json:"uses"` // nil if unlimited
	Completed int64      `json:"completed"`
	Pending   int64      `json:"pending"`
	Expires   *time.Time `json:"expires"` // nil if the token never expires
}

func tokenOf(t accounts.RegistrationToken) Token {
	out := Token{Token: t.Token, Uses: t.Uses, Completed: t.Completed, Pending: t.Pending}
	if !t.Expires.IsZero() {
		out.Expires = &t.Expires
	}
	return out
}

func (a *API) tokenCreate(ctx context.Context, t Token) (any, error) {
	wanted := accounts.RegistrationToken{Token: t.Token, Uses: t.Uses}
	if t.Expires != nil {
		wanted.Expires = *t.Expires
	}
	made, err := a.Accounts.CreateToken(ctx, wanted)
	return tokenOf(made), err
}

func (a *API) tokenRevoke(ctx context.Context, t Token) (any, error) {
	return struct{}{}, a.Accounts.RevokeToken(ctx, t.Token)
}

// RoomArgs are the arguments of the commands "room …".
type RoomArgs struct {
	Room string `json:"room"` // ID or alias
	// Lifetimes in milliseconds, used by room retention set; nil means unlimited.
	MinLifetime *int64 `json:"min_lifetime_ms,omitempty"`
	MaxLifetime *int64 `json:"max_lifetime_ms,omitempty"`
	DryRun      bool   `json:"dry_run,omitempty"` // for room retention set: only report what would be purged
}

// Room describes a room in the results of commands.
type Room struct {
	Room       id.RoomID  `json:"room"`
	Version    string     `json:"version"`
	Name       string     `json:"name"`
	Alias      string     `json:"alias"`
	Joined     int        `json:"joined"`
	Encrypted  bool       `json:"encrypted"`
	Public     bool       `json:"public"`
	Created    time.Time  `json:"created"`
	Retention  Lifetimes  `json:"retention"`          // the effective policy
	Override   *Lifetimes `json:"override,omitempty"` // the administrator's policy
	PurgedUpTo *time.Time `json:"purged_up_to,omitempty"`
	// WouldGo is what a policy would remove that was only tried.
	WouldGo *WouldGo `json:"would_go,omitempty"`
}

// WouldGo counts what a retention policy would remove from a room now.
type WouldGo struct {
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"` // of the messages
	Media    int   `json:"media"` // files to which the messages link; links in encrypted messages cannot be seen
}

// Lifetimes is a retention policy in milliseconds; nil means unlimited.
type Lifetimes struct {
	Min *int64 `json:"min_lifetime_ms"`
	Max *int64 `json:"max_lifetime_ms"`
}

func lifetimesOf(p expiry.Policy) Lifetimes {
	millis := func(d *time.Duration) *int64 {
		if d == nil {
			return nil
		}
		ms := d.Milliseconds()
		return &ms
	}
	return Lifetimes{Min: millis(p.Min), Max: millis(p.Max)}
}

// roomID converts a room ID or an alias to a room ID.
func (a *API) roomID(ctx context.Context, text string) (id.RoomID, error) {
	if !strings.HasPrefix(text, "#") {
		return id.RoomID(text), nil
	}
	room, _, err := a.Directory.ResolveRoom(ctx, text)
	return room, err
}

func roomOf(d history.Details) Room {
	out := Room{
		Room: d.ID, Version: string(d.Version), Name: d.Name, Alias: d.Alias, Joined: d.Joined, Encrypted: d.Encrypted, Public: d.Published,
		Created: d.Created, Retention: lifetimesOf(d.Retention),
	}
	if d.Override != nil {
		l := lifetimesOf(*d.Override)
		out.Override = &l
	}
	if d.PurgedBefore > 0 {
		t := time.UnixMilli(d.PurgedBefore)
		out.PurgedUpTo = &t
	}
	return out
}

func (a *API) roomShow(ctx context.Context, args RoomArgs) (any, error) {
	room, err := a.roomID(ctx, args.Room)
	if err != nil {
		return nil, err
	}
	return a.showRoom(ctx, room)
}

func (a *API) showRoom(ctx context.Context, room id.RoomID) (any, error) {
	d, err := a.History.RoomDetails(ctx, room)
	if err != nil {
		return nil, err
	}
	return roomOf(d), nil
}

func (a *API) roomRetentionGet(ctx context.Context, args RoomArgs) (any, error) {
	return a.roomShow(ctx, args)
}

func (a *API) roomRetentionSet(ctx context.Context, args RoomArgs) (any, error) {
	p := expiry.Policy{}
	for _, l := range []struct {
		from *int64
		to   **time.Duration
	}{{args.MinLifetime, &p.Min}, {args.MaxLifetime, &p.Max}} {
		if l.from == nil {
			continue
		}
		if *l.from < 0 || *l.from > int64(1<<63-1)/int64(time.Millisecond) {
			return nil, mxerr.InvalidParam("A lifetime must not be negative or longer than 292 years")
		}
		d := time.Duration(*l.from) * time.Millisecond
		*l.to = &d
	}
	if args.DryRun {
		return a.tryRetention(ctx, args.Room, p)
	}
	return a.override(ctx, args.Room, &p)
}

// tryRetention reports what a policy would remove from a room.
func (a *API) tryRetention(ctx context.Context, text string, p expiry.Policy) (any, error) {
	roomID, err := a.roomID(ctx, text)
	if err != nil {
		return nil, err
	}
	room, err := a.Rooms.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if p.Min != nil && p.Max != nil && *p.Max < *p.Min {
		return nil, mxerr.InvalidParam("The maximum must not be shorter than the minimum")
	}
	out := Room{Room: roomID, Retention: lifetimesOf(p), WouldGo: &WouldGo{}}
	g, err := a.Retention.Try(ctx, room, p)
	out.WouldGo.Messages, out.WouldGo.Bytes, out.WouldGo.Media = g.Messages, g.Bytes, g.Media
	return out, err
}

func (a *API) roomRetentionClear(ctx context.Context, args RoomArgs) (any, error) {
	return a.override(ctx, args.Room, nil)
}

// override sets the retention policy that the administrator has chosen for a room, or removes it if p is nil.
func (a *API) override(ctx context.Context, text string, p *expiry.Policy) (any, error) {
	room, err := a.roomID(ctx, text)
	if err != nil {
		return nil, err
	}
	if err := a.Rooms.SetRetentionOverride(ctx, room, p); err != nil {
		return nil, err
	}
	return a.showRoom(ctx, room)
}

// PurgeArgs are the arguments of the command "purge now".
type PurgeArgs struct {
	All bool `json:"all,omitempty"` // purge everything that has expired, without waiting for retention.purge_delay
}

// Purged is the result of the command "purge now", and a part of that of "purge status".
type Purged struct {
	Rooms    int   `json:"rooms"`  // number of rooms with a maximum lifetime
	Events   int   `json:"events"` // number of removed messages
	Took     int64 `json:"took_ms"`
	Waiting  int   `json:"waiting,omitempty"`   // number of expired messages that wait because a policy was shortened
	FilesDue bool  `json:"files_due,omitempty"` // whether the files may still contain removed messages

	Originals int `json:"originals,omitempty"` // number of removed originals of redacted messages

	Removed       int `json:"removed_rooms,omitempty"`  // number of removed rooms that all local users had left
	RemovedEvents int `json:"removed_events,omitempty"` // number of events removed with these and earlier ones

	States int `json:"states,omitempty"` // number of removed states of rooms that nothing needed any more

	// KeptUntil is when messages that expired only because the clock jumped will be purged. It is nil if the clock has
	// not jumped.
	KeptUntil *time.Time `json:"kept_until,omitempty"`
	// StoppedUntil is when the purge goes on after it was stopped because far more messages have expired than usual.
	StoppedUntil *time.Time `json:"stopped_until,omitempty"`
	// KeysDue is the number of keys of removed messages that are still to be destroyed (on PostgreSQL), and
	// KeysDueSince when something under one of them was first removed.
	KeysDue      int64      `json:"keys_due,omitempty"`
	KeysDueSince *time.Time `json:"keys_due_since,omitempty"`
}

func purgedOf(r retention.Report) Purged {
	return Purged{
		Rooms: r.Rooms, Events: r.Events, Waiting: r.Waiting, Took: r.Took.Milliseconds(), FilesDue: r.Owed, Originals: r.Originals,
		Removed: r.Removed, RemovedEvents: r.RemovedEvents, States: r.States,
		KeptUntil: r.KeptUntil, StoppedUntil: r.StoppedUntil,
	}
}

func (a *API) purgeNow(ctx context.Context, args PurgeArgs) (any, error) {
	r, err := a.Retention.Purge(ctx, args.All)
	_, filesErr := a.Media.Unlink(ctx)
	out := purgedOf(r)
	err = errors.Join(err, filesErr, a.addKeysDue(ctx, &out))
	return out, err
}

// addKeysDue adds which keys are still to be destroyed. After a purge of everything these are only keys of what was
// removed during it, and all if a backup is being made.
func (a *API) addKeysDue(ctx context.Context, p *Purged) error {
	return a.DB.Read(ctx, func(tx *storage.Tx) error {
		due, since, err := tx.PendingKeys()
		if p.KeysDue = due; due > 0 {
			p.KeysDueSince = &since
		}
		return err
	})
}

// PurgeStatus is the result of the command "purge status".
type PurgeStatus struct {
	Running bool       `json:"running"`
	Started *time.Time `json:"started,omitempty"` // the current run, or else the last one since the server was started
	Oldest  int64      `json:"delay_ms"`          // the longest time between the expiry of a message and its removal
	Kept    int64      `json:"originals_kept"`    // number of originals of redacted messages that are on disk
	// Compacting says whether the database is being made smaller after a purge.
	Compacting bool `json:"compacting,omitempty"`
	Purged
}

func (a *API) purgeStatus(ctx context.Context, _ struct{}) (any, error) {
	s := a.Retention.Status()
	out := PurgeStatus{Running: s.Running, Oldest: s.Last.Oldest.Milliseconds(), Compacting: s.Compacting, Purged: purgedOf(s.Last)}
	if !s.Started.IsZero() {
		out.Started = &s.Started
	}
	var err error
	if out.Kept, err = a.Retention.Originals(ctx); err != nil {
		return nil, err
	}
	return out, a.addKeysDue(ctx, &out.Purged)
}

// ServerArgs are the arguments of the commands "federation …".
type ServerArgs struct {
	Server string `json:"server"` // "" means all servers; for federation status only
}

func (a *API) federationStatus(ctx context.Context, args ServerArgs) (any, error) {
	return a.Outbox.Status(ctx, args.Server)
}

func (a *API) federationRetry(ctx context.Context, args ServerArgs) (any, error) {
	if args.Server == "" {
		return nil, mxerr.MissingParam("The server is missing")
	}
	return struct{}{}, a.Outbox.Retry(ctx, args.Server)
}
