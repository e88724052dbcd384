// Package e2ee passes end-to-end encryption through: device keys, one-time keys, cross-signing, key backup, messages
// between devices and the stream of device-list changes. It never decrypts anything and keeps what clients upload
// verbatim, unknown fields included.
//
// Every change that a client may sync travels: a method of Service → one write → its Committed hook wakes the users that
// must look again. The feed reads through the methods of sync.go.
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

// Options is what a Service is made of.
type Options struct {
	DB     *storage.DB
	Server string // this server's name
	Hub    *wake.Hub
	Cache  keyed.Budget // bounds what is remembered
	Now    func() time.Time
	Log    *slog.Logger

	Rooms Rooms
	// Commits tells who joins rooms of other servers; nil: nobody does.
	Commits *rooms.Commits

	// Other servers; both are nil where there are none.
	Remote   Remote
	Outgoing Outgoing
}

// Service is safe for concurrent use. Run must run beside it where there are other servers.
type Service struct {
	opts       Options
	updates    chan struct{}      // there are device list updates to hand on; a slot of one
	stale      chan struct{}      // there are device lists to ask for; a slot of one
	joined     chan struct{}      // users of this server came into rooms of others; a slot of one
	discovered chan *rooms.Commit // with servers that are to be told of devices
	names      *deviceNames
	// asking lets one request for device keys at a time go to each server. Those who wait meanwhile find most of what they want
	// in the cache afterwards.
	asking    *keyed.Semaphore[string]
	backlogs  backlogs
	strangers strangers
}

// New makes a Service.
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
	maxToDeviceTargets  = 10000    // messages of one sendToDevice, "*" counting for every device
	maxToDeviceContent  = 64 << 10 // of one of them, bytes: what other servers take
	maxToDeviceBytes    = 32 << 20 // of all of them: a message to "*" is stored once for each device
	maxBackupSession    = 64 << 10 // session_data, bytes
)

// Bounds of what other servers send; docs/limits.md lists them.
const (
	maxRemoteDevices  = 2000 // devices of one user that are kept, twice what any server is known to allow
	maxRemoteName     = 1000 // display name of a device, bytes; a longer one is left out
	maxPrevIDs        = 100  // prev_id of an update
	maxMessageID      = 255  // bytes; the specification has 32 characters
	maxServersAtOnce  = 32   // asked for one request of a client
	maxQueryTimeout   = 30 * time.Second
	maxResyncs        = 64 // lists that one round asks for anew
	maxResyncServers  = 8  // at the same time
	maxResyncInterval = 6 * time.Hour
	maxJoined         = 1000     // joins of which other servers are still to be told
	maxDiscovered     = 100      // completed rooms of whose servers some are still to be told of devices
	maxJoinUpdates    = 2000     // updates that one join makes
	maxEDUMessages    = 64 << 10 // messages of one m.direct_to_device, bytes; a larger one is alone in its EDU
)

// wakeUsers is the Committed hook of a write that these users sync.
func (s *Service) wakeUsers(users ...ident.UserNID) func() {
	return func() { s.opts.Hub.Users(users...) }
}

// write runs a write that may ask, by what it returns, for something to happen once it is committed.
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

// crossSigningChanged stands among the names of changed devices for the cross-signing keys.
const crossSigningChanged = ""

// DevicesChanged records in a write of the caller that devices of a user changed, and returns what to do once that is
// committed: waking whoever shares a room with the user, and telling other servers.
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

// tellServers records that other servers are to be told of changed devices.
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

// DeviceGone removes in a write of the caller what hangs on a device that is deleted.
func (s *Service) DeviceGone(tx *storage.Tx, device ident.DeviceNID, user ident.UserNID, deviceID string) error {
	s.names.forget(device)
	if err := tx.ForgetDehydrated(user, device); err != nil {
		return err
	}
	return tx.DeleteDeviceE2EE(device, user, deviceID)
}

// object decodes the members of a JSON object, or says which input is not one.
func object(what string, raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, mxerr.BadJSON("%s must be an object", what)
	}
	return m, nil
}

// misspelled tells whether an object has a member that is one of the names but for upper and lower case. encoding/json
// takes it for the member, so that what is checked would not be what others read.
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

// isLocal says whether a user is of this server.
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
