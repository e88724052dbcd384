package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Remote sends requests to other servers; fedclient.Client implements it.
type Remote interface {
	UserDevices(ctx context.Context, server string, user id.UserID) (json.RawMessage, error)
	QueryDeviceKeys(ctx context.Context, server string, users map[id.UserID][]id.DeviceID) (json.RawMessage, error)
	ClaimKeys(ctx context.Context, server string, wanted map[id.UserID]map[id.DeviceID]string) (json.RawMessage, error)
}

// Outgoing queues EDUs for other servers; outbox.Service implements it.
type Outgoing interface {
	// AddEDU stores an EDU for a server in the caller's write. EDUs are delivered in the order in which they were
	// added. The size of what is queued for one sender is bounded. An empty sender means this server itself.
	AddEDU(tx *storage.Tx, server string, sender id.UserID, edu json.RawMessage) error
	// Kick starts the delivery after the write was committed. It runs in a Committed hook, so it must be quick.
	Kick(server string)
}

// Rooms reports which users and servers share rooms; sharing.Service implements it.
type Rooms interface {
	// SharedServers returns the other servers that share a room with a local user.
	SharedServers(ctx context.Context, user ident.UserNID) ([]string, error)
	// NewlyShared returns the other servers in a room that share no other room with a local user.
	NewlyShared(ctx context.Context, user ident.UserNID, room ident.RoomNID) ([]string, error)
	// LocalSharers returns the local users who share a room with a local or remote user.
	LocalSharers(ctx context.Context, user ident.UserNID) ([]ident.UserNID, error)
	// WakeSharers finds, within a write, the local users who share a room with user, including user, and returns a
	// function that wakes them once the write is committed.
	WakeSharers(tx *storage.Tx, user ident.UserNID) (committed func(), err error)
	// MayShareRoom reports whether a remote user may be a member of a partial-state room, whose members are not all
	// known yet.
	MayShareRoom(ctx context.Context, user id.UserID) (bool, error)
}

// defaultTimeout is how long a request waits for other servers if the client sets no timeout.
const defaultTimeout = 10 * time.Second

// eachServer calls ask for the servers, several at a time, and returns the servers for which it failed.
func eachServer[T any](ctx context.Context, timeout time.Duration, servers map[string]T, ask func(ctx context.Context, server string, what T) error) Failures {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, min(timeout, maxQueryTimeout))
	defer cancel()
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex // guards failures; a leaf lock
		failures = Failures{}
		slots    = make(chan struct{}, maxServersAtOnce)
	)
	for server, what := range servers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := ask(ctx, server, what); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures.add(server)
			}
		})
	}
	wg.Wait()
	return failures
}

// errNoFederation is returned for every other server if federation is disabled.
var errNoFederation = errors.New("federation is disabled")

// queryServers adds the keys of remote users.
func (s *Service) queryServers(ctx context.Context, viewer ident.Requester, servers map[string]map[id.UserID][]id.DeviceID, timeout time.Duration, out *Keys) {
	var mu sync.Mutex // guards out; a leaf lock
	failures := eachServer(ctx, timeout, servers, func(ctx context.Context, server string, wanted map[id.UserID][]id.DeviceID) error {
		if s.opts.Remote == nil {
			return errNoFederation
		}
		keys, err := s.queryServer(ctx, viewer, server, wanted)
		if err != nil {
			s.opts.Log.InfoContext(ctx, "Cannot fetch device keys", "server", server, "error", err)
		}
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(out.DeviceKeys, keys.DeviceKeys)
		maps.Copy(out.MasterKeys, keys.MasterKeys)
		maps.Copy(out.SelfSigningKeys, keys.SelfSigningKeys)
		return err
	})
	maps.Copy(out.Failures, failures)
}

// queryServer returns the keys of users of one server. If some keys could not be retrieved, it returns the others.
func (s *Service) queryServer(ctx context.Context, viewer ident.Requester, server string, wanted map[id.UserID][]id.DeviceID) (*Keys, error) {
	out := newKeys()
	missing, _, err := s.cached(ctx, viewer, wanted, out)
	if err != nil || len(missing) == 0 {
		return out, err
	}
	leave, err := s.asking.Acquire(ctx, server)
	if err != nil {
		return out, err
	}
	defer leave()
	missing, asked, err := s.cached(ctx, viewer, missing, out) // another request may have fetched them in the meantime
	if err != nil || len(missing) == 0 {
		return out, err
	}
	lists, err := s.askKeys(ctx, server, missing)
	if err != nil {
		return out, err
	}
	if err := s.cacheLists(ctx, viewer, asked, lists); err != nil {
		return out, err
	}
	return out, s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		nids, err := lookUp(tx, lists)
		if err != nil {
			return err
		}
		found := make(map[id.UserID]userKeys, len(lists))
		for user, list := range lists {
			found[user] = userKeys{nids[user], list.devices, list.crossSigning}
		}
		return out.add(tx, viewer, found, missing)
	})
}

// cached adds the users whose cached devices are current. It returns the other users, whose keys have to be requested,
// and the stream position to pass to cacheLists afterwards.
func (s *Service) cached(ctx context.Context, viewer ident.Requester, wanted map[id.UserID][]id.DeviceID, out *Keys) (missing map[id.UserID][]id.DeviceID, asked storage.Pos, err error) {
	missing = map[id.UserID][]id.DeviceID{}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		asked = tx.Settled()
		found, err := freshKeys(tx, viewer, wanted)
		for user, devices := range wanted {
			if _, fresh := found[user]; !fresh {
				missing[user] = devices
			}
		}
		if err != nil {
			return err
		}
		return out.add(tx, viewer, found, wanted)
	})
	return missing, asked, err
}

// freshKeys returns the cached keys of those users whose cached list is known to be current. Another server sends
// updates only while a room is shared, so the viewer and the user must have shared one room ever since the list was
// fetched. The viewer has to be in that room, so that the cache reveals nothing about users with whom the viewer shares
// no room.
func freshKeys(tx *storage.Tx, viewer ident.Requester, wanted map[id.UserID][]id.DeviceID) (map[id.UserID]userKeys, error) {
	nids, err := lookUp(tx, wanted)
	if err != nil {
		return nil, err
	}
	fresh, err := tx.FreshLists(viewer.UserNID, slices.Collect(maps.Values(nids)))
	if err != nil {
		return nil, err
	}
	devices, err := tx.RemoteDevices(fresh)
	if err != nil {
		return nil, err
	}
	keys, err := tx.CrossSigningKeysOf(fresh)
	names := make(map[ident.UserNID]id.UserID, len(nids))
	for user, nid := range nids {
		names[nid] = user
	}
	found := make(map[id.UserID]userKeys, len(fresh))
	for _, nid := range fresh {
		found[names[nid]] = userKeys{nid, devices[nid], keys[nid]}
	}
	return found, err
}

// askKeys requests all devices of the given users from their server.
func (s *Service) askKeys(ctx context.Context, server string, wanted map[id.UserID][]id.DeviceID) (map[id.UserID]deviceList, error) {
	all := make(map[id.UserID][]id.DeviceID, len(wanted))
	for user := range wanted {
		all[user] = []id.DeviceID{}
	}
	answer, err := s.opts.Remote.QueryDeviceKeys(ctx, server, all)
	if err != nil {
		return nil, err
	}
	return parseKeysAnswer(answer, slices.Collect(maps.Keys(wanted)))
}

// cacheWrite bounds the lists that are stored in one write, which keeps writes short.
const cacheWrite = 20

// cacheLists stores the lists of those users who share a room with the viewer.
func (s *Service) cacheLists(ctx context.Context, viewer ident.Requester, asked storage.Pos, lists map[id.UserID]deviceList) error {
	for users := range slices.Chunk(slices.Sorted(maps.Keys(lists)), cacheWrite) {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			for _, user := range users {
				nid, found, err := tx.LookupUser(string(user))
				if err != nil || !found {
					return err
				}
				meets, err := tx.SharesRoom(viewer.UserNID, nid)
				if err != nil {
					return err
				}
				if !meets {
					continue
				}
				if _, err := lists[user].store(tx, nid, asked); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// claimOfServers adds the one-time keys claimed from other servers to claims.
func (s *Service) claimOfServers(ctx context.Context, servers map[string]map[id.UserID]map[id.DeviceID]string, timeout time.Duration, claims Claims) Failures {
	var mu sync.Mutex // guards claims; a leaf lock
	return eachServer(ctx, timeout, servers, func(ctx context.Context, server string, wanted map[id.UserID]map[id.DeviceID]string) error {
		if s.opts.Remote == nil {
			return errNoFederation
		}
		answer, err := s.opts.Remote.ClaimKeys(ctx, server, wanted)
		if err != nil {
			s.opts.Log.InfoContext(ctx, "Cannot claim one-time keys", "server", server, "error", err)
			return err
		}
		taken, err := parseClaims(answer, wanted)
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(claims, taken)
		return err
	})
}

// QueryForServer answers another server's query for the keys of local users. It leaves out other users.
// Spec: server-server-api#post_matrixfederationv1userkeysquery
func (s *Service) QueryForServer(ctx context.Context, wanted map[id.UserID][]id.DeviceID) (*Keys, error) {
	if err := bounded("users of one query", len(wanted), maxQueryUsers); err != nil {
		return nil, err
	}
	local, _, err := split(s, wanted)
	if err != nil {
		return nil, err
	}
	return s.Query(ctx, ident.Requester{}, local, 0)
}

// ClaimForServer claims keys of local users for another server.
// Spec: server-server-api#post_matrixfederationv1userkeysclaim
func (s *Service) ClaimForServer(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string) (Claims, error) {
	if err := bounded("users of one claim", len(wanted), maxQueryUsers); err != nil {
		return nil, err
	}
	local, _, err := split(s, wanted)
	if err != nil {
		return nil, err
	}
	return s.claimLocal(ctx, local)
}

// UserDevices is the device list of a user in the form for other servers.
type UserDevices struct {
	UserID         id.UserID       `json:"user_id"`
	StreamID       storage.Pos     `json:"stream_id"`
	Devices        []UserDevice    `json:"devices"`
	MasterKey      json.RawMessage `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
}

// UserDevice is a device in UserDevices.
type UserDevice struct {
	DeviceID    id.DeviceID     `json:"device_id"`
	Keys        json.RawMessage `json:"keys"`
	DisplayName string          `json:"device_display_name,omitempty"`
}

// UserDevices returns the devices of a local user that have keys.
//
// Errors: M_NOT_FOUND, M_INVALID_PARAM for a user of another server.
// Spec: server-server-api#get_matrixfederationv1userdevicesuserid
func (s *Service) UserDevices(ctx context.Context, user id.UserID) (*UserDevices, error) {
	if here, err := s.isLocal(user); err != nil {
		return nil, err
	} else if !here {
		return nil, mxerr.InvalidParam("%s is not a user of this server", user)
	}
	out := &UserDevices{UserID: user, Devices: []UserDevice{}}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		nid, found, err := tx.LookupUser(string(user))
		if err == nil && found {
			_, found, err = tx.Account(nid)
		}
		if err != nil {
			return err
		}
		if !found {
			return mxerr.NotFound("There is no such user on this server")
		}
		return out.read(tx, nid)
	})
	return out, err
}

func (u *UserDevices) read(tx *storage.Tx, nid ident.UserNID) (err error) {
	if u.StreamID, err = tx.DeviceStream(nid); err != nil {
		return err
	}
	keys := newKeys()
	if err := keys.addLocal(tx, ident.Requester{}, map[id.UserID][]id.DeviceID{u.UserID: nil}); err != nil {
		return err
	}
	rows, err := tx.UserDeviceKeys(nid)
	for _, r := range rows {
		deviceID := id.DeviceID(r.DeviceID)
		u.Devices = append(u.Devices, UserDevice{DeviceID: deviceID, Keys: keys.DeviceKeys[u.UserID][deviceID], DisplayName: r.DisplayName})
	}
	u.MasterKey, u.SelfSigningKey = keys.MasterKeys[u.UserID], keys.SelfSigningKeys[u.UserID]
	return err
}
