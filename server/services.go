package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accountdata"
	"ebb/accounts"
	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/accounts/oauth"
	"ebb/accounts/passwords"
	"ebb/accounts/upstream"
	"ebb/appservice"
	"ebb/audit"
	"ebb/backup"
	"ebb/config"
	"ebb/delayed"
	"ebb/deletions"
	"ebb/directory"
	"ebb/e2ee"
	"ebb/erasure"
	"ebb/export"
	"ebb/fedclient"
	"ebb/feed"
	"ebb/guests"
	"ebb/history"
	"ebb/holds"
	"ebb/httpapi"
	"ebb/ident"
	"ebb/identity"
	"ebb/keyed"
	"ebb/lifetimes"
	"ebb/mail"
	"ebb/media"
	"ebb/moderation"
	"ebb/mxerr"
	"ebb/netguard"
	"ebb/notices"
	"ebb/outbox"
	"ebb/preview"
	"ebb/push"
	"ebb/pushrules"
	"ebb/receipts"
	"ebb/redactions"
	"ebb/retention"
	"ebb/rooms"
	"ebb/rooms/encryption"
	"ebb/rooms/expiry"
	"ebb/search"
	"ebb/secrets"
	"ebb/sharing"
	"ebb/storage"
	"ebb/wake"
)

// services holds the services behind the APIs.
type services struct {
	db          *storage.DB
	hub         *wake.Hub
	gate        *gate.Gate
	factors     *factors.Service
	audit       *audit.Log
	ledger      *backup.Ledger // nil without backup.ledger
	secrets     *secrets.Ring
	accounts    *accounts.Service
	oauth       *oauth.Service // nil if OAuth 2.0 is off
	upstream    *upstream.Service
	rooms       *rooms.Service
	accountData *accountdata.Service
	receipts    *receipts.Service
	search      *search.Index // nil if search is off
	history     *history.Service
	directory   *directory.Service
	e2ee        *e2ee.Service
	feed        *feed.Service
	push        *pushrules.Rules
	pushers     *push.Service
	media       *media.Service
	retention   *retention.Job
	lifetimes   *lifetimes.Job
	holds       *holds.Service
	deletions   *deletions.Log
	delayed     *delayed.Service
	redactions  *redactions.Service
	signing     *fedclient.SigningKeys
	remote      *fedclient.Client
	keys        *fedclient.KeyRing
	outbox      *outbox.Service
	mail        *mail.Sender     // nil if e-mail is off
	previews    *preview.Service // nil if previews are off
	identity    *identity.Client
	moderation  *moderation.Service
	notices     *notices.Service
	registry    *appservice.Registry
	apps        *appservice.Service
	guests      *guests.Job
	export      *export.Service
	erasure     *erasure.Job

	gone   *keyed.Map[ident.DeviceNID, bool] // devices that are being deleted
	locked *keyed.Map[ident.UserNID, bool]   // users whose accounts have been locked
}

// open opens the database and builds the services on it.
func open(ctx context.Context, cfg *config.Config, o Options) (*services, error) {
	if err := refuseUnrestored(cfg, o); err != nil {
		return nil, err
	}
	if err := keepPrivate(cfg); err != nil {
		return nil, err
	}
	signing, err := fedclient.LoadSigningKeys(cfg.KeyFile(), cfg.ServerName)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, cfg, o)
	if err != nil {
		return nil, err
	}
	s := &services{db: db, hub: wake.New(), signing: signing, gone: keyed.NewMap[ident.DeviceNID, bool](maxGone), locked: keyed.NewMap[ident.UserNID, bool](maxGone)}
	err = checkIdentity(ctx, db, cfg, signing)
	if err == nil {
		s.secrets, err = openSecrets(ctx, db, cfg)
	}
	if err == nil {
		err = s.build(ctx, cfg, o, rooms.Options{Signer: signing})
	}
	if err == nil {
		err = s.holds.Follow(ctx)
	}
	if err != nil {
		_ = db.Close() // the first error is returned
		return nil, err
	}
	if cfg.Backup.Ledger != "" && !o.restoring {
		s.ledger = backup.NewLedger(backup.LedgerOptions{DB: db, Path: cfg.File(cfg.Backup.Ledger), Log: o.Log})
	}
	return s, nil
}

// steadyTime returns the time by which what people have stored is deleted for good. It is called after build.
func (s *services) steadyTime(ctx context.Context) (time.Time, error) { return s.retention.Time(ctx) }

func openDatabase(ctx context.Context, cfg *config.Config, o Options) (*storage.DB, error) {
	return storage.Open(ctx, storage.Config{DSN: cfg.DSN(), BodyKeys: cfg.BodyKeys(), KeysIfNew: cfg.OnlyNewBodies(), Server: cfg.ServerName, CommitDelay: o.CommitDelay, Now: o.Now, Log: o.Log, OnBatch: observeBatch, OnStatement: o.OnStatement,
		Ledger: cfg.Backup.Ledger != "" && !o.restoring})
}

func (s *services) build(ctx context.Context, cfg *config.Config, o Options, roomOptions rooms.Options) (err error) {
	if s.push, err = pushrules.New(ctx, s.db, s.hub, cfg.ServerName, pushrules.Defaults{Legacy: cfg.Push.LegacyMentionRules, AllEncrypted: cfg.Push.AllEncrypted}); err != nil {
		return fmt.Errorf("load push rules: %w", err)
	}
	if s.mail, err = newMail(cfg, o); err != nil {
		return err
	}
	if s.registry, err = appservice.NewRegistry(cfg, o.Now, o.Log); err != nil {
		return fmt.Errorf("application services: %w", err)
	}
	policy := retentionPolicy(cfg.Retention)
	commits := rooms.NewCommits() // created first: rooms reports to it, and services below listen to it
	roomOptions.Commits = commits
	roomOptions.DB, roomOptions.Server, roomOptions.Hub, roomOptions.Push = s.db, cfg.ServerName, s.hub, s.push
	roomOptions.Cache = keyed.Budget(cfg.Cache.Size)
	roomOptions.Now, roomOptions.Log, roomOptions.Retention = o.Now, o.Log, policy
	roomOptions.CacheBytes, roomOptions.DefaultVersion = int64(cfg.Cache.Size)/2, id.RoomVersion(cfg.Rooms.DefaultVersion)
	roomOptions.Profile, roomOptions.Namespaces = s.profile, s.registry
	roomOptions.Encryption = encryption.Policy(cfg.Encryption)
	if err := s.openRemote(cfg, o); err != nil {
		return err
	}
	if cfg.Federation.Enabled {
		roomOptions.Remote, roomOptions.Keys = s.remote, s.keys
		roomOptions.PolicyServers = s.remote
	}
	if err := s.openDeletions(ctx, cfg, o); err != nil {
		return err
	}
	roomOptions.Deletions = s.deletions
	roomOptions.NoticeSender = noticeSender(cfg)
	if s.rooms, err = rooms.New(ctx, roomOptions); err != nil {
		return err
	}
	if err := s.openNotices(ctx, cfg, o); err != nil {
		return err
	}
	s.accountData = accountdata.New(accountdata.Options{DB: s.db, Rooms: s.rooms, Commits: commits, Push: s.push, Cache: keyed.Budget(cfg.Cache.Size), NoticeSender: noticeSender(cfg)})
	s.receipts = receipts.New(s.rooms, o.Now)
	if err := s.openSearch(ctx, cfg, o); err != nil {
		return err
	}
	s.history = history.New(history.Options{DB: s.db, Rooms: s.rooms, AccountData: s.accountData, Commits: commits, Search: s.search, Now: o.Now, Log: o.Log})
	delivery := outbox.Options{DB: s.db, Server: cfg.ServerName, History: s.history, Sender: s.remote, Now: o.Now, Log: o.Log}
	if cfg.Federation.Enabled {
		delivery.Commits = commits
	}
	s.outbox = outbox.New(delivery)
	s.remote.SetGate(s.outbox)
	keys := e2ee.Options{DB: s.db, Notices: s.notices, Apps: s.registry, Cache: keyed.Budget(cfg.Cache.Size), Server: cfg.ServerName, Hub: s.hub, Now: o.Now, Log: o.Log, Rooms: sharing.New(s.rooms, s.hub), Commits: commits}
	if cfg.Federation.Enabled {
		keys.Remote, keys.Outgoing = s.remote, s.outbox
	}
	s.e2ee = e2ee.New(keys)
	if err := s.openGate(ctx, cfg, o); err != nil {
		return err
	}
	if err := s.recordSettings(ctx, cfg); err != nil {
		return fmt.Errorf("record the configuration in the audit log: %w", err)
	}
	others, mistakes := upstreamOptions(cfg, o)
	if err := mistakes.Err(); err != nil {
		return err
	}
	s.accounts = accounts.New(accounts.Options{
		Gate: s.gate, Audit: s.audit, Upstream: others, Notices: s.notices, Passwords: passwords.Policy(cfg.Auth.Password),
		DB: s.db, Cache: keyed.Budget(cfg.Cache.Size), Server: cfg.ServerName, Registration: accounts.Mode(cfg.Registration.Mode), Terms: terms(cfg),
		Guests: cfg.Registration.Guests, GuestLifetime: time.Duration(cfg.Registration.GuestLifetime), IdleLifetime: time.Duration(cfg.Login.IdleLifetime), SteadyTime: s.steadyTime,
		AccessTokenLifetime: time.Duration(cfg.Login.AccessTokenLifetime), Emails: s.emails(cfg), AccountPage: accountPage(cfg), AdminApproval: time.Duration(cfg.Auth.AdminApproval), SearchAllUsers: cfg.UserDirectory.SearchAllUsers, Hooks: s.hooks(), Budgets: budgets(cfg.RateLimits, o.Now), HashCommand: o.HashCommand, Network: httpapi.Network, Remote: s.askProfiles(cfg), Users: s.registry, Now: o.Now, Log: o.Log,
	})
	s.directory = s.newDirectory(cfg, commits, o)
	s.oauth = s.newOAuth(cfg, o)
	if s.upstream, mistakes = newUpstream(cfg, upstream.Options{DB: s.db, Accounts: s.accounts, Now: o.Now, Log: o.Log}); len(mistakes) > 0 {
		return mistakes
	}
	if s.apps, err = appservice.New(ctx, appservice.Options{
		Registry: s.registry, DB: s.db, Accounts: s.accounts, Rooms: s.rooms, History: s.history, Commits: commits, Hub: s.hub, Log: o.Log,
	}); err != nil {
		return err
	}
	s.guests = guests.New(guests.Options{DB: s.db, Rooms: s.rooms, Commits: commits, Log: o.Log})
	news := feed.Options{
		DB: s.db, Cache: keyed.Budget(cfg.Cache.Size), Rooms: s.rooms, AccountData: s.accountData, History: s.history, Commits: commits, E2EE: s.e2ee, Push: s.push, Hub: s.hub, Now: o.Now, Log: o.Log,
		Alive: s.alive, Server: cfg.ServerName, Apps: s.apps,
	}
	if cfg.Federation.Enabled {
		news.Outgoing, news.SendPresence = s.outbox, cfg.Federation.Presence
	}
	s.feed = feed.New(news)
	s.pushers = push.New(push.Options{
		DB: s.db, Rooms: s.rooms, AccountData: s.accountData, History: s.history, Rules: s.push, Commits: commits, Client: gatewayClient(cfg, o), AllowPrivate: cfg.Push.AllowPrivateGateways,
		Email: s.emailNotifications(cfg), CountRooms: cfg.Push.CountRooms, EventIDOnly: cfg.Push.EventIDOnly, Cache: keyed.Budget(cfg.Cache.Size), Now: o.Now, Log: o.Log,
	})
	s.delayed = delayed.New(delayed.Options{
		DB: s.db, Rooms: s.rooms, MaxDelay: time.Duration(cfg.DelayedEvents.MaxDelay), MaxPerUser: cfg.DelayedEvents.MaxPerUser, Now: o.Now, Timer: o.Timer, Log: o.Log,
	})
	s.retention, err = retention.New(ctx, retention.Options{
		DB: s.db, Rooms: s.rooms, Commits: commits, Deletions: s.deletions, Policy: policy, Interval: time.Duration(cfg.Retention.PurgeInterval), Delay: time.Duration(cfg.Retention.PurgeDelay),
		LeftRooms: (*time.Duration)(cfg.Retention.LeftRooms), ForgottenRooms: (*time.Duration)(cfg.Retention.ForgottenRooms),
		Observe: observePurge, Now: o.Now, Elapsed: o.elapsed, Log: o.Log,
	})
	if err != nil {
		return fmt.Errorf("read the state of the purge: %w", err)
	}
	s.redactions = redactions.New(redactions.Options{DB: s.db, Rooms: s.rooms, Commits: commits, Audit: s.audit, Time: s.retention.Time, Now: o.Now, Timer: o.Timer, Log: o.Log})
	s.erasure = erasure.New(erasure.Options{DB: s.db, Rooms: s.rooms, Redactions: s.redactions, Audit: s.audit, Deletions: s.deletions, Commits: commits, Now: o.Now, Timer: o.Timer, Log: o.Log})
	s.lifetimes = lifetimes.New(lifetimes.Options{DB: s.db, Time: s.retention.Time, Reports: time.Duration(cfg.Reports.Keep)})
	s.moderation = moderation.New(moderation.Options{DB: s.db, Audit: s.audit, Rooms: s.rooms, History: s.history, Now: o.Now})
	files := media.Options{
		DB: s.db, Server: cfg.ServerName, Cache: keyed.Budget(cfg.Cache.Size), Dir: filepath.Join(cfg.Dir(), "media"), Key: s.db.Secret("media"), MaxUploadSize: int64(cfg.Media.MaxUploadSize),
		QuotaPerUser: int64(cfg.Media.QuotaPerUser), MaxPending: cfg.Media.MaxPendingUploads,
		PendingExpiry: time.Duration(cfg.Media.PendingUploadExpiry), Workers: thumbnailWorkers, Now: o.Now, RemoveBy: s.retention.Time, Log: o.Log,
		Secrets: s.secrets, Commits: commits, Rooms: s.history, Deletions: s.deletions, Lifetimes: undeclared{s.db, s.rooms, s.registry}, UnusedLifetime: time.Duration(cfg.Media.UnusedLifetime),
		MaxRemoteSize: int64(cfg.Media.MaxRemoteSize), RemoteCache: int64(cfg.Media.RemoteCacheSize), RemoteLifetime: time.Duration(cfg.Media.RemoteCacheLifetime), TemporarySize: int64(cfg.Media.URLPreviews.CacheSize),
	}
	if cfg.Federation.Enabled {
		files.Remote = s.remote
	}
	if s.media, err = media.New(ctx, files); err != nil {
		return err
	}
	if s.previews, err = s.newPreviews(cfg, o); err != nil {
		return err
	}
	if s.export, err = export.New(export.Options{
		Dir: filepath.Join(cfg.Dir(), "exports"), Server: cfg.ServerName, DB: s.db, Rooms: s.rooms, History: s.history, Commits: commits, Files: uploads{s.media}, Audit: s.audit, Now: o.Now, Log: o.Log,
	}); err != nil {
		return err
	}
	s.holds = holds.New(holds.Options{Server: cfg.ServerName, DB: s.db, Rooms: s.rooms, Media: s.media, Accounts: s.export, Notify: cfg.Holds.Notify == "on_request", Erasures: s.accounts, Audit: s.audit, Commits: commits, Now: o.Now})
	s.identity, err = s.newIdentity(cfg, o)
	return err
}

// openGate creates the gate through which every login passes, and the second factors.
func (s *services) openGate(ctx context.Context, cfg *config.Config, o Options) error {
	policy := gate.Policy{MFA: gate.Mode(cfg.Auth.MFA), Administrators: gate.Mode(cfg.Auth.MFAAdministrators), Grace: time.Duration(cfg.Auth.MFAGrace)}
	if o.MFA != nil {
		policy = *o.MFA
	}
	s.gate = gate.New(gate.Options{Policy: policy, Factors: factors.Enrolment{}, Budgets: guesses(cfg.RateLimits, o.Now), Now: o.Now})
	if err := s.gate.Load(ctx, s.db); err != nil {
		return fmt.Errorf("read the policy on second factors: %w", err)
	}
	keys := cfg.Auth.Passkeys
	var err error
	s.factors, err = factors.New(factors.Options{
		DB: s.db, Gate: s.gate, Sealer: s.secrets, Journal: factorJournal{s.audit, s.notices}, Server: cfg.ServerName, Now: o.Now, Log: o.Log,
		Passkeys: factors.PasskeyOptions{PublicURL: cfg.PublicURL, RPID: keys.RPID, AAGUIDs: keys.AAGUIDs, DeviceBound: keys.DeviceBound},
	})
	return err
}

// auditSinks returns where checkpoints of the audit log are sent.
func auditSinks(cfg *config.Config) (sinks []audit.Sink) {
	c := cfg.Audit.Checkpoints
	if c.File != "" {
		sinks = append(sinks, audit.FileSink(cfg.File(c.File)))
	}
	if c.Syslog != "" {
		sinks = append(sinks, audit.SyslogSink(c.Syslog))
	}
	if c.Webhook != "" {
		sinks = append(sinks, audit.WebhookSink(c.Webhook))
	}
	return sinks
}

// accountPage returns the address of the account page, or "" if there are no web pages.
func accountPage(cfg *config.Config) string {
	if !cfg.OAuth.Enabled {
		return ""
	}
	return strings.TrimSuffix(cfg.PublicURL, "/") + oauth.PathAccount
}

// newOAuth returns the authorization server, or nil if OAuth 2.0 is off.
func (s *services) newOAuth(cfg *config.Config, o Options) *oauth.Service {
	if !cfg.OAuth.Enabled {
		return nil
	}
	return oauth.New(oauth.Options{
		DB: s.db, Accounts: s.accounts, Notices: s.notices, Gate: s.gate, Secrets: s.secrets, Issuer: cfg.PublicURL, Clients: cfg.OAuth.Clients, DeviceGrant: cfg.OAuth.DeviceGrant == "on",
		IdleLifetime: time.Duration(cfg.OAuth.IdleLifetime), SessionLifetime: time.Duration(cfg.OAuth.SessionLifetime), Now: o.Now, Log: o.Log,
	})
}

// openSearch opens the search index, unless search is switched off.
func (s *services) openSearch(ctx context.Context, cfg *config.Config, o Options) (err error) {
	if !cfg.Search.Enabled {
		return nil
	}
	if s.search, err = search.New(ctx, search.Options{DB: s.db, Log: o.Log}); err != nil {
		err = fmt.Errorf("open the search index: %w", err)
	}
	return err
}

func (s *services) newDirectory(cfg *config.Config, commits *rooms.Commits, o Options) *directory.Service {
	listed := directory.Options{DB: s.db, Server: cfg.ServerName, Rooms: s.rooms, Admins: s.accounts, Apps: s.registry, Cache: keyed.Budget(cfg.Cache.Size), Commits: commits, Now: o.Now, Log: o.Log}
	if cfg.Federation.Enabled {
		listed.Remote = s.remote
	}
	return directory.New(listed)
}

// openRemote creates the client for requests to other servers, and the key ring.
func (s *services) openRemote(cfg *config.Config, o Options) error {
	roots, err := cfg.Authorities()
	if err != nil {
		return fmt.Errorf("federation.trusted_ca_file: %w", err)
	}
	s.remote = fedclient.New(fedclient.Options{
		Server: cfg.ServerName, Cache: keyed.Budget(cfg.Cache.Size), Signer: s.signing, Now: o.Now, Log: o.Log, Roots: roots, AllowPrivate: cfg.Federation.AllowPrivateAddresses,
		Allowed: allowed(cfg.Federation), Resolver: o.Resolver, Dial: o.Dial, UserAgent: "Ebb/" + o.Version,
	})
	s.keys = fedclient.NewKeyRing(s.remote, s.db, cfg.Federation.Notaries, s.signing.Old)
	return nil
}

// emailNotifications returns the settings of e-mails about unread messages.
func (s *services) emailNotifications(cfg *config.Config) push.EmailOptions {
	o := push.EmailOptions{Delay: time.Duration(cfg.Push.EmailDelay), Interval: time.Duration(cfg.Push.EmailInterval), Server: cfg.ServerName}
	if cfg.Push.Email && s.mail != nil {
		o.Mailer = s.mail
	}
	return o
}

// gatewayClient returns the client for push gateways.
func gatewayClient(cfg *config.Config, o Options) *http.Client {
	dialer := netguard.NewDialer(netguard.DialerOptions{Resolver: o.Resolver, AllowPrivate: cfg.Push.AllowPrivateGateways})
	return push.NewClient(netguard.ClientOptions{Dialer: dialer, AllowHTTP: cfg.Push.AllowPrivateGateways})
}

// allowed returns a function that reports whether the configuration allows communication with a server. It returns nil
// if all servers are allowed.
func allowed(f config.Federation) func(server string) bool {
	if len(f.AllowedServers)+len(f.DeniedServers) == 0 {
		return nil
	}
	allows := allowedHosts(f.AllowedServers, f.DeniedServers)
	return func(server string) bool { return allows(fedclient.HostOf(server)) }
}

// askProfiles returns the function that fetches profiles from other servers, or nil if federation is off.
func (s *services) askProfiles(cfg *config.Config) accounts.Remote {
	if !cfg.Federation.Enabled {
		return nil
	}
	return s.remote
}

// thumbnailWorkers bounds how many thumbnails are created at the same time. Package media bounds the memory that they
// use.
const thumbnailWorkers = 2

// hooks returns the functions that notify other services of changes to accounts.
func (s *services) hooks() accounts.Hooks {
	return accounts.Hooks{
		DeviceGone:     s.deviceGone,
		Locked:         s.accountLocked,
		DevicesChanged: s.e2ee.DevicesChanged,
		ProfileChanged: func(ctx context.Context, nid ident.UserNID, user id.UserID, displayName, avatarURL string) error {
			return s.rooms.ProfileChanged(ctx, ident.Requester{UserNID: nid, UserID: user}, rooms.Profile{DisplayName: displayName, AvatarURL: avatarURL})
		},
		ProfileCommitted: s.rooms.ProfileCommitted,
		LeaveRooms: func(ctx context.Context, nid ident.UserNID, user id.UserID) error {
			s.export.DropUser(nid)
			return s.rooms.LeaveAll(ctx, ident.Requester{UserNID: nid, UserID: user})
		},
		Erase: func(ctx context.Context, nid ident.UserNID) error {
			s.export.DropUser(nid)
			return s.rooms.Erase(ctx, nid)
		},
		Exclusive: s.registry.ExclusiveUser,
	}
}

// budget implements accounts.Budget. It counts attempts in one class of a limiter.
type budget struct {
	limiter *httpapi.Limiter
	class   httpapi.Rate
}

// Take implements accounts.Budget.
func (b budget) Take(key string) time.Duration { return b.limiter.Limit(b.class, key) }

// Return implements accounts.Budget.
func (b budget) Return(key string) { b.limiter.Return(b.class, key) }

// guessesInSum is the factor by which the limits on wrong guesses from one network at all accounts, and from all
// networks at one account, exceed the limit on guesses from one network at one account.
const guessesInSum = 10

// Factors by which the limits on verification mails caused by one network, and by all networks, exceed the limit on
// mails to one address.
const (
	emailsFromNetwork = 10
	emailsInSum       = 100
)

// guessesOnServer is the factor by which the limit on wrong passwords for all accounts from all networks exceeds the
// limit for one network at one account.
const guessesOnServer = 100

// limitedTo returns a budget with a limiter of its own. Its rate is the configured rate b, multiplied by times.
func limitedTo(class httpapi.Rate, b config.Bucket, times int, now func() time.Time) budget {
	rate := httpapi.Bucket{PerSecond: b.PerSecond * float64(times), Burst: b.Burst * times}
	return budget{httpapi.NewLimiter(map[httpapi.Rate]httpapi.Bucket{class: rate}, now), class}
}

// guesses returns the limits on guesses at passwords and tokens.
func guesses(c config.RateLimits, now func() time.Time) gate.Budgets {
	if !c.Enabled {
		return gate.Budgets{}
	}
	of := func(times int) gate.Budget { return limitedTo(httpapi.Logins, c.Logins, times, now) }
	return gate.Budgets{Guesses: of(1), Networks: of(guessesInSum), Accounts: of(guessesInSum), Server: of(guessesOnServer)}
}

// budgets returns the limits on new accounts and verification mails.
func budgets(c config.RateLimits, now func() time.Time) accounts.Budgets {
	if !c.Enabled {
		return accounts.Budgets{}
	}
	of := func(b config.Bucket, times int) accounts.Budget {
		return limitedTo(httpapi.Registrations, b, times, now)
	}
	return accounts.Budgets{
		NewAccounts: of(c.Registrations, 1), MailsTo: of(c.Emails, 1), MailsFrom: of(c.Emails, emailsFromNetwork), Mails: of(c.Emails, emailsInSum),
	}
}

// profile returns the profile fields that a user's membership events contain. An application service may create an
// unknown user who is invited.
func (s *services) profile(ctx context.Context, user id.UserID) (p rooms.Profile, err error) {
	p.DisplayName, p.AvatarURL, err = s.accounts.MemberProfile(ctx, user)
	return p, err
}

// deviceGone deletes the data of a device. Long polls of the device that are still waiting fail when they are about to
// be answered; see alive.
func (s *services) deviceGone(tx *storage.Tx, device ident.DeviceNID, user ident.UserNID, deviceID string) error {
	s.gone.Put(device, true)
	s.pushers.DeviceGone(user, device)
	return s.e2ee.DeviceGone(tx, device, user, deviceID)
}

// accountLocked ends the long polls and the notifications of a locked account.
func (s *services) accountLocked(user ident.UserNID, locked bool) {
	s.pushers.AccountLocked(user)
	if !locked {
		s.locked.Forget(user)
		return
	}
	s.locked.Put(user, true)
	s.hub.Users(user)
}

// maxGone bounds the devices in gone and the users in locked. Entries are needed only as long as a long poll lasts,
// which is minutes at most.
const maxGone = 100_000

// alive returns an error if a device has been deleted or its account has been locked. It reads the database only if
// s.gone has the device or s.locked has the user.
func (s *services) alive(ctx context.Context, user ident.UserNID, device ident.DeviceNID) error {
	if doubtful, _ := s.locked.Get(user); doubtful {
		if locked, err := s.accounts.IsLocked(ctx, user); err != nil || locked {
			return cmp.Or(err, error(mxerr.UserLocked()))
		}
	}
	if doubtful, _ := s.gone.Get(device); doubtful && !s.exists(ctx, user, device) {
		return mxerr.UnknownToken(false)
	}
	return nil
}

// exists reports whether the device is in the database.
func (s *services) exists(ctx context.Context, user ident.UserNID, device ident.DeviceNID) bool {
	there := false
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		refs, err := tx.DeviceRefs(user)
		there = slices.ContainsFunc(refs, func(d storage.DeviceRef) bool { return d.NID == device })
		return err
	})
	return err == nil && there
}

func terms(cfg *config.Config) []accounts.Term {
	var out []accounts.Term
	for _, t := range cfg.Registration.Terms {
		out = append(out, accounts.Term{ID: t.ID, Version: t.Version, Name: t.Name, URL: t.URL})
	}
	return out
}

// openDeletions opens the audit log and the receipts of deletions, whose hashes it records.
func (s *services) openDeletions(ctx context.Context, cfg *config.Config, o Options) (err error) {
	s.audit = audit.New(audit.Options{
		DB: s.db, Server: cfg.ServerName, Secrets: s.secrets, Keep: time.Duration(cfg.Audit.Keep), Networks: time.Duration(cfg.Audit.Addresses), Sinks: auditSinks(cfg),
		Interval: time.Duration(cfg.Audit.Checkpoints.Interval), Now: o.Now, Log: o.Log,
	})
	s.deletions, err = deletions.Open(ctx, deletions.Options{
		DB: s.db, Server: cfg.ServerName, Secrets: s.secrets, Audit: s.audit, Keep: time.Duration(cfg.Retention.ReceiptsKeep), Now: o.Now, Log: o.Log,
	})
	if err != nil {
		return fmt.Errorf("receipts of deletions: %w", err)
	}
	return nil
}

func retentionPolicy(c config.Retention) rooms.Retention {
	return rooms.Retention{
		Default: expiry.Policy{Min: lifetime(c.Default.MinLifetime), Max: lifetime(c.Default.MaxLifetime)},
		ByKind: expiry.Defaults{
			Direct: policyOf(c.Direct), Private: policyOf(c.Private), Public: policyOf(c.Public), Encrypted: policyOf(c.Encrypted),
		},
		Redacted:        time.Duration(c.Redacted),
		SupersededState: c.SupersededState,
		Limits: expiry.Limits{
			MinLifetime: expiry.Bounds{Min: lifetime(c.Limits.MinLifetime.Min), Max: lifetime(c.Limits.MinLifetime.Max)},
			MaxLifetime: expiry.Bounds{Min: lifetime(c.Limits.MaxLifetime.Min), Max: lifetime(c.Limits.MaxLifetime.Max)},
		},
	}
}

// policyOf returns the policy for a kind of room, or nil if the configuration has none.
func policyOf(l config.Lifetimes) *expiry.Policy {
	if l.MinLifetime == nil && l.MaxLifetime == nil {
		return nil
	}
	return &expiry.Policy{Min: lifetime(l.MinLifetime), Max: lifetime(l.MaxLifetime)}
}

func lifetime(d *config.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	t := time.Duration(*d)
	return &t
}

func bucket(b config.Bucket) httpapi.Bucket {
	return httpapi.Bucket{PerSecond: b.PerSecond, Burst: b.Burst}
}

// invitesOfServer is the factor by which the limit on invites from all users of one server exceeds the limit for one
// user.
const invitesOfServer = 10

// Limits on lookups for which this server sends requests to other servers although the client has no access token. They
// are enough for somebody who follows a link.
const (
	maxLookups    = 5  // by one network at once, refilled by one every ten seconds
	maxAllLookups = 20 // by all networks at once, refilled by one every second
)

// maxReports bounds how many reports a user can send at once. The allowance is refilled by one every ten seconds.
const maxReports = 20

// Limits on restarts and other actions on delayed events. A client in a call restarts its event every five seconds, and
// a service behind one network may do so for a hundred clients.
const (
	heartbeatsPerSecond = 20
	maxHeartbeats       = 200
)

// limits returns the rate limits of the APIs.
func limits(c config.RateLimits) map[httpapi.Rate]httpapi.Bucket {
	return map[httpapi.Rate]httpapi.Bucket{
		httpapi.Sends: bucket(c.Sends), httpapi.Reads: bucket(c.Reads), httpapi.Anonymous: bucket(c.Anonymous), httpapi.Logins: bucket(c.Logins), httpapi.Joins: bucket(c.Joins),
		httpapi.Invites: bucket(c.Invites), httpapi.ServerInvites: {PerSecond: c.Invites.PerSecond * invitesOfServer, Burst: c.Invites.Burst * invitesOfServer},
		httpapi.Uploads: bucket(c.Uploads), httpapi.KeyClaim: bucket(c.Claims),
		httpapi.Lookups: {PerSecond: 0.1, Burst: maxLookups}, httpapi.AllLookups: {PerSecond: 1, Burst: maxAllLookups},
		httpapi.NewClients: bucket(c.Registrations),
		httpapi.Reports:    {PerSecond: 0.1, Burst: maxReports},
		httpapi.Heartbeats: {PerSecond: heartbeatsPerSecond, Burst: maxHeartbeats},
	}
}
