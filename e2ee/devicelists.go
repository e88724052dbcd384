package e2ee

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// These are the types of the EDUs that this package handles.
const (
	eduDeviceListUpdate = "m.device_list_update"
	eduSigningKeyUpdate = "m.signing_key_update"
	eduDirectToDevice   = "m.direct_to_device"
)

// edu returns an EDU with the given type and content, in the form that a transaction contains.
func edu(typ string, content any) (json.RawMessage, error) {
	return json.Marshal(map[string]any{"edu_type": typ, "content": content})
}

// listUpdate is the content of m.device_list_update.
type listUpdate struct {
	UserID      id.UserID       `json:"user_id"`
	DeviceID    string          `json:"device_id"`
	DisplayName json.RawMessage `json:"device_display_name,omitempty"` // usually a string
	StreamID    int64           `json:"stream_id"`
	PrevID      []int64         `json:"prev_id"`
	Deleted     bool            `json:"deleted,omitempty"`
	Keys        json.RawMessage `json:"keys,omitempty"`
}

// signingKeyUpdate is the content of m.signing_key_update.
type signingKeyUpdate struct {
	UserID         id.UserID       `json:"user_id"`
	MasterKey      json.RawMessage `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
}

func (s *Service) kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	// pollInterval is how often Run looks for work without being woken, such as stale lists that are due for another
	// request.
	pollInterval = 30 * time.Second
	// sweepInterval is how often cached lists that are no longer needed are deleted.
	sweepInterval = time.Hour
)

// Run sends device list updates to other servers and requests stale lists until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.loop(ctx, s.gone, sweepInterval, "delete what deleted devices left", s.deleteLeftovers) })
	if s.opts.Outgoing != nil {
		wg.Go(func() { s.loop(ctx, s.updates, pollInterval, "send device list updates", s.SendDeviceLists) })
		wg.Go(func() { s.loop(ctx, s.joined, pollInterval, "send the devices of users who joined", s.SendJoined) })
		wg.Go(func() { s.sendToDiscovered(ctx) })
	}
	if s.opts.Remote != nil {
		wg.Go(func() { s.loop(ctx, s.stale, pollInterval, "request device lists", s.Resync) })
		wg.Go(func() { s.loop(ctx, nil, sweepInterval, "drop unneeded device lists and message IDs", s.Sweep) })
	}
	wg.Wait()
	return nil
}

// loop runs job immediately, then whenever it receives from kicked, and at an interval.
func (s *Service) loop(ctx context.Context, kicked <-chan struct{}, every time.Duration, what string, job func(context.Context) error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := job(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.ErrorContext(ctx, "Device list job failed", "job", what, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-kicked:
		case <-ticker.C:
		}
	}
}

// updatesRead is the number of rows that are read at a time.
const updatesRead = 100

// SendDeviceLists queues every pending device list update for the servers that share a room with the user.
func (s *Service) SendDeviceLists(ctx context.Context) error {
	return drain(ctx, s.opts.DB, (*storage.Tx).DeviceListUpdates, s.sendUpdate)
}

// drain processes the rows of a table until none is left. It calls some to read a batch of rows, and one to process a
// row and remove it from the table.
func drain[T any](ctx context.Context, db *storage.DB, some func(*storage.Tx, int) ([]T, error), one func(context.Context, T) error) error {
	for {
		var rows []T
		err := db.Read(ctx, func(tx *storage.Tx) (err error) {
			rows, err = some(tx, updatesRead)
			return err
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			if err := one(ctx, row); err != nil {
				return err
			}
		}
	}
}

func (s *Service) sendUpdate(ctx context.Context, u storage.DeviceListUpdate) error {
	servers, err := s.opts.Rooms.SharedServers(ctx, u.User)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *storage.Tx) (func(), error) {
		if mine, err := tx.DeleteDeviceListUpdate(u.StreamID); err != nil || !mine || len(servers) == 0 {
			return nil, err
		}
		message, err := updateEDU(tx, u)
		if err != nil || message == nil {
			return nil, err
		}
		if err := s.addForAll(tx, servers, message); err != nil {
			return nil, err
		}
		return func() { s.kickAll(servers) }, nil
	})
}

func (s *Service) addForAll(tx *storage.Tx, servers []string, message json.RawMessage) error {
	for _, server := range servers {
		if err := s.opts.Outgoing.AddEDU(tx, server, "", message); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) kickAll(servers []string) {
	for _, server := range servers {
		s.opts.Outgoing.Kick(server)
	}
}

// updateEDU returns the EDU for a change, with the current state of the device. It returns nil if there is nothing to
// send.
func updateEDU(tx *storage.Tx, u storage.DeviceListUpdate) (json.RawMessage, error) {
	userID, err := tx.UserID(u.User)
	if err != nil {
		return nil, err
	}
	user := id.UserID(userID)
	keys := newKeys()
	if err := keys.addLocal(tx, ident.Requester{}, map[id.UserID][]id.DeviceID{user: {id.DeviceID(u.DeviceID)}}); err != nil {
		return nil, err
	}
	if u.DeviceID == crossSigningChanged {
		if keys.MasterKeys[user] == nil {
			return nil, nil
		}
		return edu(eduSigningKeyUpdate, signingKeyUpdate{UserID: user, MasterKey: keys.MasterKeys[user], SelfSigningKey: keys.SelfSigningKeys[user]})
	}
	content := listUpdate{UserID: user, DeviceID: u.DeviceID, StreamID: int64(u.StreamID), PrevID: []int64{}, Keys: keys.DeviceKeys[user][id.DeviceID(u.DeviceID)]}
	if u.PrevID != 0 {
		content.PrevID = []int64{int64(u.PrevID)}
	}
	row, found, err := tx.Device(u.User, u.DeviceID)
	if err != nil {
		return nil, err
	}
	content.Deleted = !found
	if row.DisplayName != nil && *row.DisplayName != "" {
		content.DisplayName, _ = json.Marshal(*row.DisplayName) // a string always encodes
	}
	return edu(eduDeviceListUpdate, content)
}

// committed is a rooms.Listener. It schedules device list updates to other servers in two cases: a local user has
// joined a room (the write of the join has added a storage.DeviceAnnouncement), or servers were discovered in a room.
func (s *Service) committed(c *rooms.Commit) {
	if slices.ContainsFunc(c.Members, func(m rooms.CommittedMember) bool { return m.Local && m.Joined() }) && c.Room.Shared() {
		s.kick(s.joined)
	}
	if len(c.Discovered) == 0 || s.opts.Outgoing == nil {
		return
	}
	select {
	case s.discovered <- c:
	default:
		s.opts.Log.Error("Too many rooms with discovered servers are waiting for devices", "room", c.Room.ID(), "max", maxDiscovered)
	}
}

// SendJoined sends the devices of local users who joined a room to the other servers in the room.
func (s *Service) SendJoined(ctx context.Context) error {
	return drain(ctx, s.opts.DB, (*storage.Tx).DeviceAnnouncements, s.sendJoined)
}

// sendJoined sends a user's devices to the servers that did not share a room with the user before the join. The servers
// of a partial-state room are not known for certain, so in that case it sends only the devices with keys, which
// suffices for encryption.
// Spec: server-server-api#device-management
func (s *Service) sendJoined(ctx context.Context, t storage.DeviceAnnouncement) error {
	servers, err := s.opts.Rooms.NewlyShared(ctx, t.User, t.Room)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *storage.Tx) (func(), error) {
		if mine, err := tx.DeleteDeviceAnnouncement(t); err != nil || !mine {
			return nil, err
		}
		return s.addDevices(tx, t.User, servers, t.Partial)
	})
}

// sendToDiscovered sends the devices of a room's local members to servers that were discovered in the room, until ctx
// ends. These servers have missed all updates since the users joined.
func (s *Service) sendToDiscovered(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.discovered:
			for _, m := range slices.Collect(c.Room.EachLocal()) {
				if err := s.sendDevices(ctx, m.NID, c.Discovered); err != nil && ctx.Err() == nil {
					s.opts.Log.ErrorContext(ctx, "Cannot send devices to servers discovered in a room", "room", c.Room.ID(), "user", m.User, "err", err)
				}
			}
		}
	}
}

// sendDevices sends a user's devices to those of the given servers that share a room with the user.
func (s *Service) sendDevices(ctx context.Context, user ident.UserNID, servers []string) error {
	shared, err := s.opts.Rooms.SharedServers(ctx, user)
	if err != nil {
		return err
	}
	shared = slices.DeleteFunc(shared, func(server string) bool { return !slices.Contains(servers, server) })
	return s.write(ctx, func(tx *storage.Tx) (func(), error) { return s.addDevices(tx, user, shared, false) })
}

// addDevices queues updates for a user's devices, or only for those with keys, in the outbox. The updates have the
// current stream ID of the device list: for the given servers they are the first updates, and later ones follow them.
// Other servers do not get them, but find no gap, because the stream ID does not increase.
func (s *Service) addDevices(tx *storage.Tx, user ident.UserNID, servers []string, withKeys bool) (committed func(), err error) {
	if len(servers) == 0 {
		return nil, nil
	}
	stream, err := tx.DeviceStream(user)
	if err != nil {
		return nil, err
	}
	devices, err := deviceIDs(tx, user, withKeys)
	if err != nil {
		return nil, err
	}
	for _, device := range devices[:min(len(devices), 1+maxJoinUpdates/len(servers))] {
		message, err := updateEDU(tx, storage.DeviceListUpdate{StreamID: stream, User: user, DeviceID: device})
		if err != nil {
			return nil, err
		}
		if err := s.addForAll(tx, servers, message); err != nil {
			return nil, err
		}
	}
	return func() { s.kickAll(servers) }, nil
}

// deviceIDs returns the IDs of a user's devices, or only of those with keys.
func deviceIDs(tx *storage.Tx, user ident.UserNID, withKeys bool) (ids []string, err error) {
	if withKeys {
		keys, err := tx.UserDeviceKeys(user)
		for _, k := range keys {
			ids = append(ids, k.DeviceID)
		}
		return ids, err
	}
	devices, err := tx.Devices(user)
	for _, d := range devices {
		ids = append(ids, d.DeviceID)
	}
	return ids, err
}

// ReceiveDeviceListUpdate processes an m.device_list_update from another server. It notifies local users who share a
// room with the user, and updates the cached list or, if an update was missed, marks it stale.
// Spec: server-server-api#mdevice_list_update-schema
func (s *Service) ReceiveDeviceListUpdate(ctx context.Context, origin string, content json.RawMessage) error {
	var u listUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return mxerr.BadJSON("m.device_list_update is malformed")
	}
	if len(u.PrevID) > maxPrevIDs {
		return mxerr.TooLarge("prev_id must not have more than %d entries", maxPrevIDs)
	}
	if isNull(u.Keys) || u.Deleted {
		u.Keys = nil
	} else if err := checkRemoteDevice(u.UserID, u.DeviceID, u.Keys); err != nil {
		return err
	}
	return s.receiveChange(ctx, origin, u.UserID, len(u.PrevID) == 0, u.apply)
}

// ReceiveSigningKeyUpdate processes an m.signing_key_update from another server. It marks the user's list stale, so
// that the list is requested again.
// Spec: server-server-api#msigning_key_update-schema
func (s *Service) ReceiveSigningKeyUpdate(ctx context.Context, origin string, content json.RawMessage) error {
	var u signingKeyUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return mxerr.BadJSON("m.signing_key_update is malformed")
	}
	if !isNull(u.MasterKey) && len(remoteCrossSigning(u.UserID, u.MasterKey, nil)) == 0 {
		return mxerr.BadJSON("The master key is malformed")
	}
	return s.receiveChange(ctx, origin, u.UserID, false, u.apply)
}

// fromOrigin returns an error if the user does not belong to the server that sent the update.
func fromOrigin(origin string, user id.UserID) error {
	if _, server, err := user.Parse(); err != nil || server != origin {
		return mxerr.Forbidden("%.255q is not a user of %s", string(user), origin)
	}
	return nil
}

// applied is the result of applying a change to the cached list of a user.
type applied int

const (
	appliedNothing applied = iota // the cache already contained the change
	appliedFully                  // the cache is up to date, or the user is not cached
	appliedGap                    // an update was missed, so the list has to be requested
)

// receiveChange applies a change of a remote user's devices if the cached list is fresh, and notifies local users who
// share a room with the user. It ignores the first update of a sequence if the user is not cached: such an update is
// sent because the user joined a room, which clients see in the room.
func (s *Service) receiveChange(ctx context.Context, origin string, user id.UserID, first bool, apply func(*storage.Tx, storage.RemoteList) (applied, error)) error {
	if err := fromOrigin(origin, user); err != nil {
		return err
	}
	nid, sharers, err := s.localSharers(ctx, user)
	if err != nil {
		return err
	}
	if len(sharers) == 0 {
		return s.recordChange(ctx, user)
	}
	return s.write(ctx, func(tx *storage.Tx) (func(), error) {
		list, cached, err := tx.RemoteList(nid)
		if err != nil {
			return nil, err
		}
		result := appliedFully
		switch {
		case !cached && first:
			return nil, nil
		case cached && list.Asked == 0:
			result = appliedGap
		case cached:
			if result, err = apply(tx, list); err != nil || result == appliedNothing {
				return nil, err
			}
		}
		if _, err := tx.DeviceListChanged(nid); err != nil {
			return nil, err
		}
		if result != appliedGap {
			return s.wakeUsers(sharers...), nil
		}
		// The server is evidently reachable, so the list is requested without further delay.
		if err := tx.SetRemoteList(storage.RemoteList{User: nid, StreamID: list.StreamID}); err != nil {
			return nil, err
		}
		return func() { s.opts.Hub.Users(sharers...); s.kick(s.stale) }, nil
	})
}

// recordChange records a change of a user who may be a member of a partial-state room. Local users in that room are
// notified once its members are known.
func (s *Service) recordChange(ctx context.Context, user id.UserID) error {
	if may, err := s.opts.Rooms.MayShareRoom(ctx, user); err != nil || !may {
		return err
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		nid, err := tx.UserNID(string(user))
		if err == nil {
			_, err = tx.DeviceListChanged(nid)
		}
		return err
	})
}

// localSharers returns the NID of a remote user, and the local users who share a room with that user.
func (s *Service) localSharers(ctx context.Context, user id.UserID) (nid ident.UserNID, sharers []ident.UserNID, err error) {
	found := false
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		nid, found, err = tx.LookupUser(string(user))
		return err
	})
	if err != nil || !found {
		return 0, nil, err
	}
	sharers, err = s.opts.Rooms.LocalSharers(ctx, nid)
	return nid, sharers, err
}

// follows reports whether the update directly follows the cached state of the list, so that none is missing in between.
func (u *listUpdate) follows(list storage.RemoteList) bool {
	if len(u.PrevID) == 0 {
		return list.StreamID == 0
	}
	return slices.Contains(u.PrevID, list.StreamID) && u.StreamID > list.StreamID
}

func (u *listUpdate) apply(tx *storage.Tx, list storage.RemoteList) (applied, error) {
	if u.StreamID == list.StreamID { // a repeated update or, from Dendrite, a different one with the same stream ID
		known, err := u.known(tx, list.User)
		if err != nil || known {
			return appliedNothing, err
		}
		return appliedGap, nil
	}
	if !u.follows(list) {
		return appliedGap, nil
	}
	if u.Keys == nil {
		if err := tx.DeleteRemoteDevice(list.User, u.DeviceID); err != nil {
			return 0, err
		}
	} else if whole, err := u.set(tx, list.User); err != nil || !whole {
		return appliedGap, err
	}
	list.StreamID = u.StreamID
	return appliedFully, tx.SetRemoteList(list)
}

// known reports whether the cache already has the device exactly as the update describes it.
func (u *listUpdate) known(tx *storage.Tx, nid ident.UserNID) (bool, error) {
	all, err := tx.RemoteDevices([]ident.UserNID{nid})
	rows := all[nid]
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(rows, func(d storage.UserDeviceKeys) bool { return d.DeviceID == u.DeviceID })
	if i < 0 || u.Keys == nil {
		return i < 0 && u.Keys == nil, nil
	}
	return rows[i].DisplayName == displayName(u.DisplayName) && sameJSON([]byte(rows[i].JSON), u.Keys), nil
}

// sameJSON reports whether two texts have the same canonical JSON.
func sameJSON(a, b []byte) bool {
	a, errA := canonjson.Canonical(a, false)
	b, errB := canonjson.Canonical(b, false)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// set stores the device of the update. It returns false if the user has too many devices. In that case the caller
// requests the whole list again, which is then truncated.
func (u *listUpdate) set(tx *storage.Tx, nid ident.UserNID) (bool, error) {
	n, err := tx.CountRemoteDevices(nid)
	if err != nil || n >= maxRemoteDevices {
		return false, err
	}
	return true, tx.SetRemoteDevice(nid, storage.UserDeviceKeys{DeviceID: u.DeviceID, DisplayName: displayName(u.DisplayName), JSON: string(u.Keys)})
}

// apply does not change the cached list, but lets the caller mark it stale: new cross-signing keys also change the
// signatures on the devices, and the update does not contain these.
func (u *signingKeyUpdate) apply(*storage.Tx, storage.RemoteList) (applied, error) {
	return appliedGap, nil
}

// Resync requests the stale lists that are due, from several servers in parallel.
func (s *Service) Resync(ctx context.Context) error {
	type wanted struct {
		list storage.RemoteList
		user id.UserID
	}
	byServer := map[string][]wanted{}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		lists, err := tx.RemoteListsToAsk(s.opts.Now().UnixMilli(), maxResyncs)
		if err != nil {
			return err
		}
		for _, l := range lists {
			user, err := tx.UserID(l.User)
			if err != nil {
				return err
			}
			_, server, _ := strings.Cut(user, ":")
			byServer[server] = append(byServer[server], wanted{l, id.UserID(user)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards errs; a leaf lock
		errs  []error
		slots = make(chan struct{}, maxResyncServers)
	)
	for server, lists := range byServer {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for _, w := range lists {
				if err := s.resync(ctx, server, w.user, w.list); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// resync requests one list. A failed request is not returned as an error, but retried later.
func (s *Service) resync(ctx context.Context, server string, user id.UserID, list storage.RemoteList) error {
	leave, err := s.asking.Acquire(ctx, server)
	if err != nil {
		return err
	}
	defer leave()
	var asked storage.Pos
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		asked = tx.Settled()
		list, _, err = tx.RemoteList(list.User) // it may have been fetched in the meantime
		return err
	})
	if err != nil || list.User == 0 || list.Asked != 0 {
		return err
	}
	sharers, err := s.opts.Rooms.LocalSharers(ctx, list.User)
	if err != nil {
		return err
	}
	if len(sharers) == 0 {
		return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DropRemoteList(list.User) })
	}
	answer, err := s.opts.Remote.UserDevices(ctx, server, user)
	if err == nil {
		var got deviceList
		if got, err = parseUserDevices(answer, user); err == nil {
			return s.resynced(ctx, list.User, asked, got, sharers)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.opts.Log.InfoContext(ctx, "Cannot fetch a device list", "user", user, "error", err)
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		list.RetryTS = s.opts.Now().Add(resyncBackoff.Delay(list.Failures)).UnixMilli()
		list.Failures++
		return tx.SetRemoteList(list)
	})
}

// resyncBackoff determines when a list is requested again after failures.
var resyncBackoff = keyed.Backoff{First: time.Minute, Max: maxResyncInterval}

func (s *Service) resynced(ctx context.Context, nid ident.UserNID, asked storage.Pos, got deviceList, sharers []ident.UserNID) error {
	return s.write(ctx, func(tx *storage.Tx) (func(), error) {
		changed, err := got.store(tx, nid, asked)
		if err != nil || !changed {
			return nil, err
		}
		_, err = tx.DeviceListChanged(nid) // for clients that were notified and queried before the list was available
		return s.wakeUsers(sharers...), err
	})
}

// messageMemory is how long the IDs of received messages are kept. A server that repeats a message does so within
// hours.
const messageMemory = 7 * 24 * time.Hour

// sweepBatch is the number of rows that one step of a sweep reads.
const sweepBatch = 500

// Sweep deletes old message IDs and the lists of users who no longer share a room with a local user.
func (s *Service) Sweep(ctx context.Context) error {
	for n := int64(sweepBatch); n == sweepBatch; {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			n, err = tx.PruneMessages(s.opts.Now().Add(-messageMemory).UnixMilli(), sweepBatch)
			return err
		})
		if err != nil {
			return err
		}
	}
	after := ident.UserNID(0)
	for {
		var lists []storage.RemoteList
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			lists, err = tx.RemoteLists(after, sweepBatch)
			return err
		})
		if err != nil || len(lists) == 0 {
			return err
		}
		for _, l := range lists {
			after = l.User
			if err := s.dropUnmet(ctx, l.User); err != nil {
				return err
			}
		}
	}
}

func (s *Service) dropUnmet(ctx context.Context, nid ident.UserNID) error {
	sharers, err := s.opts.Rooms.LocalSharers(ctx, nid)
	if err != nil || len(sharers) > 0 {
		return err
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DropRemoteList(nid) })
}
