// Package e2ee implements the server side of end-to-end encryption: device keys, one-time keys, cross-signing, key
// backup, to-device messages and the stream of device list changes. It never decrypts anything, and it stores what
// clients upload verbatim, including unknown fields.
//
// A method of Service puts a change into one write, whose Committed hook wakes the users who have to sync it. Package
// feed reads the changes through the methods in sync.go.
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
	"ebb/notices"
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
	// Notices alerts users whose cross-signing keys are replaced; nil means that it does not.
	Notices *notices.Service
	// Commits reports joins to rooms of other servers; nil if there are none.
	Commits *rooms.Commits

	// Apps may hold keys of local users; nil means that there are no application services.
	Apps AppServices
	// Remote and Outgoing reach other servers; both are nil if federation is disabled.
	Remote   Remote
	Outgoing Outgoing
}

// AppServices asks application services for the keys of their users that they hold themselves; appservice.Registry
// implements it.
type AppServices interface {
	// QueryKeys returns the identity keys that application services hold.
	QueryKeys(ctx context.Context, wanted map[id.UserID][]id.DeviceID) map[id.UserID]map[id.DeviceID]json.RawMessage
	// MayClaim reports whether an application service may hold one-time keys of a user.
	MayClaim(user id.UserID) bool
	// ClaimKeys claims one-time keys that application services hold.
	ClaimKeys(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string) map[id.UserID]map[id.DeviceID]map[string]json.RawMessage
}

// Service stores keys and to-device messages, and exchanges them with other servers. It is safe for concurrent use. Run
// must be running.
type Service struct {
	opts       Options
	updates    chan struct{}      // signals device list updates to send; capacity one
	stale      chan struct{}      // signals device lists to request; capacity one
	joined     chan struct{}      // signals local users who joined rooms of other servers; capacity one
	gone       chan struct{}      // signals deleted devices; capacity one
	discovered chan *rooms.Commit // rooms with servers that need to receive devices
	names      *deviceNames
	// asking admits one request for device keys per server at a time. A request that has waited usually finds its keys
	// in the cache afterwards.
	asking    *keyed.Semaphore[string]
	backlogs  backlogs
	sums      sums
	strangers strangers
}

// New returns a Service.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		opts: o, updates: make(chan struct{}, 1), stale: make(chan struct{}, 1), joined: make(chan struct{}, 1), gone: make(chan struct{}, 1),
		discovered: make(chan *rooms.Commit, maxDiscovered),
		names:      newDeviceNames(o.Cache.Entries(maxDeviceNames)), asking: keyed.NewSemaphore[string](1, 0), sums: newSums(),
	}
	o.Commits.Subscribe(s.committed)
	return s
}

// These constants bound what clients upload; docs/limits.md lists them.
const (
	maxKeyJSON          = 64 << 10 // bytes in one key object
	maxOneTimeKeys      = 1000     // unclaimed keys per device
	maxAlgorithms       = 32       // fallback keys per device
	maxKeyID            = 255      // bytes
	maxQueryUsers       = 5000     // users in one /keys/query or /keys/claim
	maxSignatureObjects = 2000     // objects in one /keys/signatures/upload
	maxToDeviceTargets  = 10000    // messages of one sendToDevice; "*" counts as every device
	maxToDeviceContent  = 64 << 10 // bytes in one message, which other servers accept
	maxToDeviceBytes    = 32 << 20 // bytes in all messages of a request; one to "*" counts for each device
	maxBackupSession    = 64 << 10 // bytes in session_data
)

// These constants bound what other servers send; docs/limits.md lists them.
const (
	maxRemoteDevices  = 2000 // devices stored for one user; twice what any server is known to allow
	maxRemoteName     = 1000 // bytes in the display name of a device; a longer name is left out
	maxPrevIDs        = 100  // entries in prev_id of an update
	maxMessageID      = 255  // bytes; the specification allows 32 characters
	maxServersAtOnce  = 32   // servers queried at a time for one client request
	maxQueryTimeout   = 30 * time.Second
	maxResyncs        = 64 // lists requested in one round
	maxResyncServers  = 8  // servers queried at a time in a round
	maxResyncInterval = 6 * time.Hour
	maxDiscovered     = 100      // completed rooms with servers that still need to receive devices
	maxJoinUpdates    = 2000     // updates caused by one join
	maxEDUMessages    = 64 << 10 // bytes of messages in one m.direct_to_device; a larger message is sent alone
)

// wakeUsers returns a Committed hook that wakes the given users.
func (s *Service) wakeUsers(users ...ident.UserNID) func() {
	return func() { s.opts.Hub.Users(users...) }
}

// write runs do in a write, and calls the function returned by do once the write has been committed.
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

// crossSigningChanged stands for the cross-signing keys in a list of changed devices.
const crossSigningChanged = ""

// DevicesChanged records in the caller's write that devices of a user changed. The function that it returns must be
// called after the commit. It wakes the users who share a room with the user, and starts the updates to other servers.
func (s *Service) DevicesChanged(tx *storage.Tx, user ident.UserNID, devices ...string) (committed func(), err error) {
	if _, err := tx.DeviceListChanged(user); err != nil {
		return nil, err
	}
	wakeSharers, err := s.opts.Rooms.WakeSharers(tx, user)
	if err != nil {
		return nil, err
	}
	return func() { wakeSharers(); s.kick(s.updates) }, s.queueUpdates(tx, user, devices...)
}

// queueUpdates stores device list updates to be sent to other servers.
func (s *Service) queueUpdates(tx *storage.Tx, user ident.UserNID, devices ...string) error {
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

// DeviceGone deletes the identity keys of a deleted device in the caller's write. Run deletes its other keys and its
// messages, of which there can be many, afterwards.
func (s *Service) DeviceGone(tx *storage.Tx, device ident.DeviceNID, user ident.UserNID, deviceID string) error {
	s.names.forget(device)
	s.kick(s.gone)
	if err := tx.ForgetDehydrated(user, device); err != nil {
		return err
	}
	return tx.DeleteDeviceKeys(device, user, deviceID)
}

// object decodes a JSON object. what describes the input in the error.
func object(what string, raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, mxerr.BadJSON("%s must be an object", what)
	}
	return m, nil
}

// misspelled reports whether an object has a field whose name differs from one of the given names only in case.
// encoding/json would accept it under that name, and this server would then check a different value from the one that
// others read.
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

// isLocal reports whether a user belongs to this server. It returns an error if the user ID is malformed.
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
