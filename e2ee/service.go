// Package e2ee implements the server side of end-to-end encryption: device keys, one-time keys, cross-signing, key
// backup, messages between devices and the stream of device-list changes. It never decrypts anything and keeps what
// clients upload verbatim, unknown fields included.
//
// A change that a client may sync goes from a method of Service to one write, whose Committed hook wakes the affected
// users. The feed reads through the methods of sync.go.
package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
	"ebb/wake"
)

// Options are the dependencies and settings of a Service.
type Options struct {
	DB     *storage.DB
	Server string // this server's name
	Hub    *wake.Hub
	Cache  keyed.Budget // bounds the caches
	Now    func() time.Time
	Log    *slog.Logger

	Rooms Rooms
	// Commits reports joins to rooms of other servers; nil if there are none.
	Commits *rooms.Commits

	// Apps may keep keys of local users; nil: there are no application services.
	Apps AppServices
	// Remote and Outgoing reach other servers; both are nil without federation.
	Remote   Remote
	Outgoing Outgoing
}

// AppServices are the application services, which may keep the keys of their users themselves. It is implemented by
// appservice.Registry.
type AppServices interface {
	// QueryKeys returns the identity keys of devices that application services keep.
	QueryKeys(ctx context.Context, wanted map[id.UserID][]id.DeviceID) map[id.UserID]map[id.DeviceID]json.RawMessage
	// MayClaim reports whether an application service may have one-time keys of a user.
	MayClaim(user id.UserID) bool
	// ClaimKeys claims one-time keys that application services keep.
	ClaimKeys(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string) map[id.UserID]map[id.DeviceID]map[string]json.RawMessage
}

// Service implements the package. It is safe for concurrent use. Run must be running if federation is enabled.
type Service struct {
	opts       Options
	updates    chan struct{}      // signals device list updates to send; capacity one
	stale      chan struct{}      // signals device lists to request; capacity one
	joined     chan struct{}      // signals local users who joined rooms of other servers; capacity one
	discovered chan *rooms.Commit // rooms with servers that need to receive devices
	names      *deviceNames
	// asking admits one request for device keys per server at a time. Requests that waited find most of their keys in
	// the cache afterwards.
	asking    *keyed.Semaphore[string]
	backlogs  backlogs
	strangers strangers
}

// New returns a Service.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opts: o, updates: make(chan struct{}, 1), stale: make(chan struct{}, 1), joined: make(chan struct{}, 1),
		discovered: make(chan *rooms.Commit, maxDiscovered),
		names:      newDeviceNames(o.Cache.Entries(maxDeviceNames)), asking: keyed.NewSemaphore[string](1, 0),
	}
	o.Commits.Subscribe(s.committed)
	return s
}

// Bounds of what clients upload; docs/limits.md lists them.
const (
	maxKeyJSON          = 64 << 10 // one key object, bytes
	maxOneTimeKeys      = 1000     // unclaimed per device
	maxAlgorithms       = 32       // fallback keys per device
	maxKeyID            = 255      // bytes
	maxQueryUsers       = 5000     // users of one /keys/query or /keys/claim
	maxSignatureObjects = 2000     // of one /keys/signatures/upload
	maxToDeviceTargets  = 10000    // messages of one sendToDevice, where "*" counts for every device
	maxToDeviceContent  = 64 << 10 // one message, bytes: what other servers accept
	maxToDeviceBytes    = 32 << 20 // all messages of a request, bytes: a message to "*" is stored once for each device
	maxBackupSession    = 64 << 10 // session_data, bytes
)

// Bounds of what other servers send; docs/limits.md lists them.
const (
	maxRemoteDevices  = 2000 // devices kept for one user, twice what any server is known to allow
	maxRemoteName     = 1000 // display name of a device, bytes; a longer one is left out
	maxPrevIDs        = 100  // prev_id of an update
	maxMessageID      = 255  // bytes; the specification has 32 characters
	maxServersAtOnce  = 32   // servers asked at a time for one client request
	maxQueryTimeout   = 30 * time.Second
	maxResyncs        = 64 // lists requested in one round
	maxResyncServers  = 8  // servers asked at a time in a round
	maxResyncInterval = 6 * time.Hour
	maxJoined         = 1000     // unprocessed joins of which other servers have to be notified
	maxDiscovered     = 100      // completed rooms with servers that still need to receive devices
	maxJoinUpdates    = 2000     // updates caused by one join
	maxEDUMessages    = 64 << 10 // messages of one m.direct_to_device, bytes; a larger message gets an EDU of its own
)

// wakeUsers returns a Committed hook that wakes users.
func (s *Service) wakeUsers(users ...ident.UserNID) func() {
	return func() { s.opts.Hub.Users(users...) }
}

// write runs do in a write, and calls the function that it returns once the write is committed.
func (s *Service) write(ctx context.Context, do func(*storage.Tx) (committed func(), err error)) error {
	after := func() {}
	w := storage.Write{
		Do: func(tx *storage.Tx) error {
			f, err := do(tx)
			if f != nil {
				after = f
			}
			return err
		},
		Committed: func() { after() },
	}
	return s.opts.DB.Enqueue(w).Wait(ctx)
}

// crossSigningChanged represents the cross-signing keys in a list of changed devices.
const crossSigningChanged = ""

// DevicesChanged records in the caller's write that devices of a user changed. It returns a function to call after the
// commit, which wakes the users who share a room with the user and starts the updates to other servers.
func (s *Service) DevicesChanged(tx *storage.Tx, user ident.UserNID, devices ...string) (committed func(), err error) {
	if _, err := tx.DeviceListChanged(user); err != nil {
		return nil, err
	}
	wakeSharers, err := s.opts.Rooms.WakeSharers(tx, user)
	if err != nil {
		return nil, err
	}
	return func() { wakeSharers(); s.kick(s.updates) }, s.tellServers(tx, user, devices...)
}

// tellServers records device list updates for other servers.
func (s *Service) tellServers(tx *storage.Tx, user ident.UserNID, devices ...string) error {
	if s.opts.Outgoing == nil {
		return nil
	}
	for _, device := range devices {
		if err := tx.AddDeviceListUpdate(user, device); err != nil {
			return err
		}
	}
	return nil
}

// DeviceGone deletes, in the caller's write, the data of a deleted device.
func (s *Service) DeviceGone(tx *storage.Tx, device ident.DeviceNID, user ident.UserNID, deviceID string) error {
	s.names.forget(device)
	if err := tx.ForgetDehydrated(user, device); err != nil {
		return err
	}
	return tx.DeleteDeviceE2EE(device, user, deviceID)
}

// object decodes the members of a JSON object; the error names the input.
func object(what string, raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, mxerr.BadJSON("%s must be an object", what)
	}
	return m, nil
}

// misspelled reports whether an object has a member that differs from one of the names only in case. encoding/json
// would accept it as that member, so that the checked value would differ from what others read.
func misspelled(raw json.RawMessage, names ...string) bool {
	bad := errors.New("misspelled")
	err := canonjson.Each(raw, func(key string, _ []byte) error {
		for _, name := range names {
			if key != name && strings.EqualFold(key, name) {
				return bad
			}
		}
		return nil
	})
	return errors.Is(err, bad)
}

func bounded(what string, n, limit int) error {
	if n > limit {
		return mxerr.TooLarge("%s has %d entries, but at most %d are allowed", what, n, limit)
	}
	return nil
}

// isLocal reports whether a user belongs to this server.
func (s *Service) isLocal(user id.UserID) (bool, error) {
	_, server, err := user.Parse()
	if err != nil {
		return false, mxerr.InvalidParam("%q is not a user ID", string(user))
	}
	return server == s.opts.Server, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
