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
	"ebb/mxerr"
	"ebb/storage"
	"ebb/wake"
)

// Device is who asks.
type Device struct {
	UserNID   int64
	User      id.UserID
	DeviceNID int64
	DeviceID  id.DeviceID
}

// Options is what a Service is made of.
type Options struct {
	DB     *storage.DB
	Server string // this server's name
	Hub    *wake.Hub
	Now    func() time.Time
	Log    *slog.Logger
}

// Service is safe for concurrent use.
type Service struct{ Options }

// New makes a Service.
func New(o Options) *Service { return &Service{Options: o} }

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
	maxToDeviceBacklog  = 10000    // undelivered messages per device; older ones are dropped
	maxBackupSession    = 64 << 10 // session_data, bytes
)

// wakeUsers is the Committed hook of a write that these users sync.
func (s *Service) wakeUsers(users ...int64) func() { return func() { s.Hub.Users(users...) } }

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
	return s.DB.Enqueue(w).Wait(ctx)
}

// DevicesChanged records in a write of the caller that a user's devices changed, and returns what to do once that is
// committed: waking whoever shares a room with the user.
func (s *Service) DevicesChanged(tx *storage.Tx, user int64) (committed func(), err error) {
	if _, err := tx.DeviceListChanged(user); err != nil {
		return nil, err
	}
	sharers, err := tx.RoomSharers(user)
	if err != nil {
		return nil, err
	}
	return s.wakeUsers(append(sharers, user)...), nil
}

// DeviceGone removes in a write of the caller what hangs on a device that is deleted.
func (s *Service) DeviceGone(tx *storage.Tx, device, user int64, deviceID string) error {
	if err := tx.ForgetDehydrated(user, device); err != nil {
		return err
	}
	return tx.DeleteDeviceE2EE(device, user, deviceID)
}

// object decodes the members of a JSON object, or says which input is not one.
func object(what string, raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, mxerr.BadJSON("%s is not an object", what)
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
		return mxerr.TooLarge("%s: %d are more than %d", what, n, limit)
	}
	return nil
}

// isLocal says whether a user is of this server.
func (s *Service) isLocal(user id.UserID) (bool, error) {
	_, server, err := user.Parse()
	if err != nil {
		return false, mxerr.InvalidParam("%q is not a user id", string(user))
	}
	return server == s.Server, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
