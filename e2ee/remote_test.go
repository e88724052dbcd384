package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// network is a Remote whose responses are set by the tests.
type network struct {
	mu      sync.Mutex
	asked   []string // the requests in order
	down    bool
	keys    string // response of /user/keys/query
	devices string // response of /user/devices
	claims  string // response of /user/keys/claim
	before  func() // called before each response
}

var errDown = errors.New("down")

func (n *network) answer(what, text string) (json.RawMessage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, what)
	if n.before != nil {
		n.before()
	}
	if n.down {
		return nil, errDown
	}
	return json.RawMessage(text), nil
}

func (n *network) UserDevices(_ context.Context, server string, user id.UserID) (json.RawMessage, error) {
	return n.answer("devices "+server, n.devices)
}

func (n *network) QueryDeviceKeys(_ context.Context, server string, _ map[id.UserID][]id.DeviceID) (json.RawMessage, error) {
	return n.answer("keys "+server, n.keys)
}

func (n *network) ClaimKeys(_ context.Context, server string, _ map[id.UserID]map[id.DeviceID]string) (json.RawMessage, error) {
	return n.answer("claim "+server, n.claims)
}

// sent is an EDU queued for another server.
type sent struct {
	server string
	Type   string          `json:"edu_type"`
	Body   json.RawMessage `json:"content"`
}

// outgoing keeps the EDUs queued in committed writes. A write that fails leaves none.
type outgoing struct {
	queue  []sent
	kicked []string
}

func (o *outgoing) AddEDU(_ *storage.Tx, server string, _ id.UserID, edu json.RawMessage) error {
	s := sent{server: server}
	err := json.Unmarshal(edu, &s)
	o.queue = append(o.queue, s)
	return err
}

func (o *outgoing) Kick(server string) { o.kicked = append(o.kicked, server) }

// sharedRooms implements Rooms with the memberships in the database.
type sharedRooms struct{ f *fixture }

func (r sharedRooms) sharers(user ident.UserNID) (ids []string, nids []ident.UserNID) {
	r.f.read(func(tx *storage.Tx) error {
		all, err := sharersOf(tx, user)
		for _, nid := range all {
			userID, err := tx.UserID(nid)
			if err != nil {
				return err
			}
			ids, nids = append(ids, userID), append(nids, nid)
		}
		return err
	})
	return ids, nids
}

func sharersOf(tx *storage.Tx, user ident.UserNID) (all []ident.UserNID, err error) {
	rooms, err := tx.JoinedRoomsOf(user, 1000)
	for _, room := range rooms {
		members, err := tx.JoinedMembers(room)
		if err != nil {
			return nil, err
		}
		all = append(all, members...)
	}
	slices.Sort(all)
	return slices.Compact(all), err
}

func (r sharedRooms) WakeSharers(tx *storage.Tx, user ident.UserNID) (func(), error) {
	all, err := sharersOf(tx, user)
	return func() { r.f.opts.Hub.Users(append(all, user)...) }, err
}

func (r sharedRooms) SharedServers(_ context.Context, user ident.UserNID) (servers []string, err error) {
	ids, _ := r.sharers(user)
	for _, u := range ids {
		if _, server, _ := strings.Cut(u, ":"); server != serverName && !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	return servers, nil
}

func (r sharedRooms) NewlyShared(ctx context.Context, user ident.UserNID, _ ident.RoomNID) ([]string, error) {
	return r.SharedServers(ctx, user)
}

func (r sharedRooms) MayShareRoom(context.Context, id.UserID) (bool, error) { return false, nil }

func (r sharedRooms) LocalSharers(_ context.Context, user ident.UserNID) (local []ident.UserNID, err error) {
	ids, nids := r.sharers(user)
	for i, u := range ids {
		if strings.HasSuffix(u, ":"+serverName) {
			local = append(local, nids[i])
		}
	}
	return local, nil
}

// federated is a fixture with a fake network of other servers.
type federated struct {
	*fixture
	net       *network
	out       *outgoing
	now       time.Time
	messageID int
}

func newFederated(t *testing.T) *federated {
	f := &federated{fixture: newFixture(t), net: &network{}, out: &outgoing{}, now: time.Unix(1e9, 0)}
	o := f.opts
	o.Remote, o.Outgoing, o.Now = f.net, f.out, func() time.Time { return f.now }
	f.Service = New(o)
	return f
}

// membership sets a user's membership in a room.
func (f *federated) membership(user id.UserID, room ident.RoomNID, membership string) (nid ident.UserNID) {
	f.t.Helper()
	f.write(func(tx *storage.Tx) (err error) {
		if nid, err = tx.UserNID(string(user)); err != nil {
			return err
		}
		return tx.SetMembership(storage.MemberRow{User: nid, Room: room, Membership: membership, Position: tx.NextPos()})
	})
	return nid
}

const far id.UserID = "@far:elsewhere"

const away = "elsewhere"

// farKeys returns the identity keys of a device of far.
func farKeys(device, key string) string {
	return fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["m.olm.v1.curve25519-aes-sha2"],"keys":{"ed25519:%s":%q},"signatures":{},"odd":1}`, far, device, device, key)
}

func farQuery(devices string) string {
	return fmt.Sprintf(`{"device_keys":{%q:{%s}}}`, far, devices)
}

func (f *federated) query(viewer ident.Requester) *Keys {
	f.t.Helper()
	return must(f.Query(f.t.Context(), viewer, map[id.UserID][]id.DeviceID{far: {}}, 0))
}

// changes returns the users whose device changes a user must be notified of since a position.
func (f *federated) changes(user ident.UserNID, since int64) (changed []ident.UserNID, now int64) {
	f.read(func(tx *storage.Tx) (err error) {
		now = int64(tx.Settled())
		changed, err = tx.DeviceListChanges(user, storage.Pos(since), tx.Settled())
		return err
	})
	return changed, now
}

func TestDevicesOfOtherServersAreCachedWhileARoomIsShared(t *testing.T) {
	f := newFederated(t)
	alice, bob := f.device("alice", "A"), f.device("bob", "B")
	f.net.keys = farQuery(`"X":` + farKeys("X", "one"))
	want := func(viewer ident.Requester, asked int) {
		t.Helper()
		if got := string(f.query(viewer).DeviceKeys[far]["X"]); got != farKeys("X", "one") {
			t.Errorf("keys are %s", got)
		}
		if len(f.net.asked) != asked {
			t.Errorf("the server was asked %q, want %d times", f.net.asked, asked)
		}
	}
	want(alice, 1)
	want(alice, 2) // without a shared room, no server would send an update
	f.membership(alice.UserID, 1, "join")
	f.membership(far, 1, "join")
	want(alice, 3)
	want(alice, 3)
	want(bob, 4) // bob shares no room, so the cache must not be used
	f.membership(far, 1, "leave")
	f.membership(far, 1, "join")
	want(alice, 5) // updates were not sent in the meantime
	want(alice, 5)
	f.membership(far, 1, "leave")
	if err := f.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.read(func(tx *storage.Tx) error {
		nid, _, err := tx.LookupUser(string(far))
		all, _ := tx.RemoteDevices([]ident.UserNID{nid})
		rows := all[nid]
		if len(rows) != 0 {
			t.Errorf("devices of somebody whom nobody meets are kept: %v", rows)
		}
		return err
	})
}

func TestConcurrentQueriesForAUserShareOneRequest(t *testing.T) {
	f := newFederated(t)
	f.net.keys = farQuery(`"X":` + farKeys("X", "one"))
	f.membership(far, 1, "join")
	var all sync.WaitGroup
	var viewers []ident.Requester
	for i := range 20 {
		viewers = append(viewers, f.device(fmt.Sprint("user", i), "D"))
		f.membership(viewers[i].UserID, 1, "join")
	}
	for _, viewer := range viewers {
		all.Go(func() { f.query(viewer) })
	}
	all.Wait()
	if len(f.net.asked) != 1 {
		t.Errorf("20 who asked at the same time led to %d requests", len(f.net.asked))
	}
}

func update(device, keys string, stream int64, prev string, more string) json.RawMessage {
	if keys != "" {
		keys = `"keys":` + keys + `,`
	}
	return json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q,%s"stream_id":%d,"prev_id":[%s]%s}`, far, device, keys, stream, prev, more))
}

func TestAMissedDeviceListUpdateCausesARequest(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.membership(alice.UserID, 1, "join")
	nid := f.membership(far, 1, "join")
	f.net.devices = fmt.Sprintf(`{"user_id":%q,"stream_id":5,"devices":[{"device_id":"X","keys":%s,"device_display_name":"phone"}]}`, far, farKeys("X", "one"))
	f.net.keys = farQuery(`"X":` + farKeys("X", "one"))
	_, since := f.changes(alice.UserNID, 0)
	receive := func(content json.RawMessage) {
		t.Helper()
		if err := f.ReceiveDeviceListUpdate(t.Context(), away, content); err != nil {
			t.Fatal(err)
		}
	}
	told := func(want bool) {
		t.Helper()
		var changed []ident.UserNID
		if changed, since = f.changes(alice.UserNID, since); slices.Contains(changed, nid) != want {
			t.Fatalf("told of a change is %v, want %v", !want, want)
		}
	}
	devices := func(want ...string) {
		t.Helper()
		asked := len(f.net.asked)
		var got []string
		for name := range f.query(alice).DeviceKeys[far] {
			got = append(got, string(name))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Fatalf("devices are %q, want %q", got, want)
		}
		if len(f.net.asked) != asked {
			t.Fatal("the cache was not believed")
		}
	}
	// the current list, sent because the user joined; nobody has requested it
	receive(update("X", farKeys("X", "one"), 5, "", ""))
	told(false)
	receive(update("X", farKeys("X", "one"), 5, "4", ""))
	told(true)
	f.query(alice)
	// the response of /user/keys/query has no stream ID that this could follow
	receive(update("Y", farKeys("Y", "two"), 5, "4", ""))
	told(true)
	if err := f.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last := f.net.asked[len(f.net.asked)-1]; last != "devices elsewhere" {
		t.Fatal(last)
	}
	told(true) // the display name is new
	devices("X")
	receive(update("Y", farKeys("Y", "two"), 6, "5", ""))
	told(true)
	devices("X", "Y")
	receive(update("Y", farKeys("Y", "two"), 6, "5", "")) // repeated, as after a crash of the other server
	told(false)
	devices("X", "Y")
	receive(update("X", "", 7, "6", `,"deleted":true`))
	told(true)
	devices("Y")

	f.net.down = true
	receive(update("Z", farKeys("Z", "3"), 9, "8", ""))
	told(true)
	asked := len(f.net.asked)
	if err := f.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.net.asked) != asked+1 {
		t.Fatalf("a server that is down is asked %d times at once", len(f.net.asked)-asked)
	}
	if keys := f.query(alice); keys.Failures[away] == nil || keys.DeviceKeys[far] != nil {
		t.Fatalf("a stale list is given: %v", keys)
	}
	f.net.down = false
	f.net.devices = fmt.Sprintf(`{"user_id":%q,"stream_id":9,"devices":[{"device_id":"Z","keys":%s}]}`, far, farKeys("Z", "3"))
	f.now = f.now.Add(2 * time.Minute)
	if err := f.Resync(t.Context()); err != nil {
		t.Fatal(err)
	}
	told(true) // so that clients whose request failed try again
	devices("Z")
}

// Dendrite deletes a device with the stream ID that the list already has.
func TestADeviceDeletedUnderAKnownStreamIDIsRemoved(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.membership(alice.UserID, 1, "join")
	f.membership(far, 1, "join")
	list := func(stream int, devices string) {
		f.net.devices = fmt.Sprintf(`{"user_id":%q,"stream_id":%d,"devices":[%s]}`, far, stream, devices)
	}
	receive := func(content json.RawMessage) (asked int) {
		t.Helper()
		before := len(f.net.asked)
		if err := errors.Join(f.ReceiveDeviceListUpdate(t.Context(), away, content), f.Resync(t.Context())); err != nil {
			t.Fatal(err)
		}
		return len(f.net.asked) - before
	}
	x, y := fmt.Sprintf(`{"device_id":"X","keys":%s}`, farKeys("X", "one")), fmt.Sprintf(`{"device_id":"Y","keys":%s}`, farKeys("Y", "two"))
	f.net.keys = farQuery(`"X":` + farKeys("X", "one") + `,"Y":` + farKeys("Y", "two"))
	f.query(alice)
	list(5, x+","+y)
	receive(update("Y", farKeys("Y", "two"), 5, "4", ""))
	spaced := strings.ReplaceAll(farKeys("Y", "two"), `":`, `": `)
	if asked := receive(update("Y", spaced, 5, "4", "")); asked != 0 {
		t.Error("the list is asked for again although the update says nothing new")
	}
	list(5, x)
	if asked := receive(update("Y", "", 5, "4", `,"deleted":true`)); asked != 1 || f.query(alice).DeviceKeys[far]["Y"] != nil {
		t.Errorf("the device is still there; the list was asked for %d times", asked)
	}
	if asked := receive(update("Y", "", 5, "4", `,"deleted":true`)); asked != 0 {
		t.Error("the list is asked for again although the device is gone")
	}
	list(5, fmt.Sprintf(`{"device_id":"X","keys":%s}`, farKeys("X", "other")))
	if receive(update("X", farKeys("X", "other"), 5, "4", "")); !strings.Contains(string(f.query(alice).DeviceKeys[far]["X"]), "other") {
		t.Error("the device has its old keys")
	}
}

// New cross-signing keys change the signatures on the devices, which m.signing_key_update does not contain.
func TestASigningKeyUpdateMakesTheListStale(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.membership(alice.UserID, 1, "join")
	nid := f.membership(far, 1, "join")
	f.net.keys = farQuery(`"X":` + farKeys("X", "one"))
	f.query(alice)
	_, since := f.changes(alice.UserNID, 0)
	signed := strings.Replace(farKeys("X", "one"), `"signatures":{}`, `"signatures":{"@far:elsewhere":{"ed25519:new":"c2ln"}}`, 1)
	f.net.keys = farQuery(`"X":` + signed)
	if err := f.ReceiveSigningKeyUpdate(t.Context(), away, json.RawMessage(fmt.Sprintf(`{"user_id":%q}`, far))); err != nil {
		t.Fatal(err)
	}
	if changed, _ := f.changes(alice.UserNID, since); !slices.Contains(changed, nid) {
		t.Error("alice is not told")
	}
	if got := f.query(alice).DeviceKeys[far]["X"]; !strings.Contains(string(got), "ed25519:new") {
		t.Errorf("the device is %s", got)
	}
}

func TestAnUpdateDuringTheRequestMakesTheListStale(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.membership(alice.UserID, 1, "join")
	f.membership(far, 1, "join")
	f.net.keys = farQuery(`"X":` + farKeys("X", "one"))
	f.net.before = func() {
		f.net.before = nil
		if err := f.ReceiveDeviceListUpdate(t.Context(), away, update("Y", farKeys("Y", "two"), 6, "5", "")); err != nil {
			t.Error(err)
		}
	}
	f.query(alice)
	f.query(alice)
	if len(f.net.asked) != 2 {
		t.Errorf("the server was asked %q", f.net.asked)
	}
}

// Malformed keys and keys of users of other servers are not stored.
func TestHostileDeviceKeysAreNotStored(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.membership(alice.UserID, 1, "join")
	f.membership(far, 1, "join")
	for name, keys := range map[string]string{
		"no object":       `[]`,
		"another device":  farKeys("OTHER", "k"),
		"another user":    strings.Replace(farKeys("X", "k"), "@far", "@near", 1),
		"keys no strings": strings.Replace(farKeys("X", "k"), `"k"`, `5`, 1),
		"too large":       strings.Replace(farKeys("X", "k"), `"odd":1`, `"odd":"`+strings.Repeat("x", maxKeyJSON)+`"`, 1),
		"fraction":        strings.Replace(farKeys("X", "k"), `"odd":1`, `"odd":1e999`, 1),
		"NUL":             strings.Replace(farKeys("X", "k"), `"odd":1`, `"odd":"\u0000"`, 1),
		"lone surrogate":  strings.Replace(farKeys("X", "k"), `"odd":1`, `"odd":"\ud800"`, 1),
		"upper case":      strings.Replace(farKeys("X", "k"), `"user_id"`, `"User_ID"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			f.net.keys = farQuery(`"X":` + keys + `,"Y":` + farKeys("Y", "good"))
			f.write(func(tx *storage.Tx) error {
				nid, _, err := tx.LookupUser(string(far))
				return errors.Join(err, tx.DropRemoteList(nid))
			})
			if got := f.query(alice).DeviceKeys[far]; got["X"] != nil || got["Y"] == nil {
				t.Errorf("devices are %s", got)
			}
			if err := f.ReceiveDeviceListUpdate(t.Context(), away, update("X", keys, 9, "", "")); err == nil {
				t.Error("the update is taken")
			}
		})
	}
	f.net.keys = fmt.Sprintf(`{"device_keys":{"@alice:test":{"EVIL":%s},"@third:else":{"EVIL":{}}},"master_keys":{"@alice:test":{}}}`, farKeys("EVIL", "k"))
	f.write(func(tx *storage.Tx) error {
		nid, _, err := tx.LookupUser(string(far))
		return errors.Join(err, tx.DropRemoteList(nid))
	})
	if got := f.query(alice); len(got.DeviceKeys) != 1 || len(got.DeviceKeys[far]) != 0 || len(got.MasterKeys) != 0 {
		t.Errorf("a server spoke for others: %v", got)
	}
	f.net.keys = `[1]`
	if got := f.query(alice); got.Failures[away] == nil && len(got.DeviceKeys[far]) > 0 {
		t.Errorf("an answer of the wrong shape gives %v", got)
	}
	for _, origin := range []string{"third", serverName} {
		wantCode(t, f.ReceiveDeviceListUpdate(t.Context(), origin, update("X", farKeys("X", "k"), 9, "", "")), "M_FORBIDDEN")
		wantCode(t, f.ReceiveSigningKeyUpdate(t.Context(), origin, json.RawMessage(fmt.Sprintf(`{"user_id":%q}`, far))), "M_FORBIDDEN")
	}
	for _, content := range []string{`{}`, `{"user_id":5}`, `{"user_id":"@far:elsewhere","device_id":"X","stream_id":1e400}`, `{"user_id":"@far:elsewhere","device_id":"X","stream_id":"5"}`} {
		if f.ReceiveDeviceListUpdate(t.Context(), away, json.RawMessage(content)) == nil {
			t.Errorf("%s is taken", content)
		}
	}
}

func TestLocalDeviceChangesAreSentToServersAsASequence(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.membership(alice.UserID, 1, "join")
	must(f.Upload(t.Context(), alice, UploadKeys{DeviceKeys: identity(alice, "")}))
	if err := f.SendDeviceLists(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.out.queue) != 0 {
		t.Fatalf("told servers that share no room: %v", f.out.queue)
	}
	f.membership(far, 1, "join")
	f.membership("@more:elsewhere", 1, "join")
	must(f.Upload(t.Context(), alice, UploadKeys{DeviceKeys: identity(alice, `,"new":true`)}))
	f.crossSign(alice)
	f.write(func(tx *storage.Tx) error {
		if err := f.DeviceGone(tx, alice.DeviceNID, alice.UserNID, "A"); err != nil {
			return err
		}
		if err := tx.DeleteDevice(alice.DeviceNID); err != nil {
			return err
		}
		_, err := f.DevicesChanged(tx, alice.UserNID, "A")
		return err
	})
	if err := f.SendDeviceLists(t.Context()); err != nil {
		t.Fatal(err)
	}
	var prev int64
	var types []string
	for i, s := range f.out.queue {
		types = append(types, s.Type)
		if s.server != away || s.Type != "m.device_list_update" {
			continue
		}
		var u listUpdate
		if err := json.Unmarshal(s.Body, &u); err != nil {
			t.Fatal(err)
		}
		if i > 0 && !slices.Equal(u.PrevID, []int64{prev}) {
			t.Errorf("update %d follows on %v, want %d", u.StreamID, u.PrevID, prev)
		}
		if prev = u.StreamID; !u.Deleted || u.Keys != nil {
			t.Errorf("the device is told as it is now: %s", s.Body)
		}
	}
	if want := []string{"m.device_list_update", "m.signing_key_update", "m.device_list_update"}; !slices.Equal(types, want) {
		t.Errorf("told %q, want %q", types, want)
	}
	f.write(func(tx *storage.Tx) error {
		_, err := tx.AddAccount(storage.AccountRow{NID: alice.UserNID, Localpart: "alice"}, "")
		return err
	})
	if list := must(f.UserDevices(t.Context(), alice.UserID)); int64(list.StreamID) != prev || list.MasterKey == nil {
		t.Errorf("the list is %+v, want stream id %d", list, prev)
	}
	if err := f.SendDeviceLists(t.Context()); err != nil || len(f.out.queue) != 3 {
		t.Errorf("updates are told twice: %v (%v)", f.out.queue, err)
	}
}

func TestServersThatNewlyShareARoomReceiveDevices(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	must(f.Upload(t.Context(), alice, UploadKeys{DeviceKeys: identity(alice, "")}))
	f.device("alice", "B")
	f.membership(alice.UserID, 1, "join")
	f.membership(far, 1, "join")
	if err := f.SendDeviceLists(t.Context()); err != nil {
		t.Fatal(err)
	}
	for partial, want := range map[bool][]string{false: {"A", "B"}, true: {"A"}} { // device B has no keys
		f.out.queue = nil
		f.write(func(tx *storage.Tx) error {
			return tx.AddDeviceAnnouncement(storage.DeviceAnnouncement{User: alice.UserNID, Room: 1, Partial: partial})
		})
		for range 2 { // the second call has nothing to send
			if err := f.SendJoined(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var devices []string
		for _, s := range f.out.queue {
			var u listUpdate
			if err := json.Unmarshal(s.Body, &u); err != nil || s.server != away || len(u.PrevID) != 0 {
				t.Errorf("told %s %s (%v)", s.server, s.Body, err)
			}
			devices = append(devices, u.DeviceID)
		}
		if !slices.Equal(devices, want) {
			t.Errorf("told of %q", devices)
		}
	}
}

func TestServersDiscoveredInARoomReceiveAllDevices(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	f.device("alice", "B")
	f.membership(alice.UserID, 1, "join")
	f.membership(far, 1, "join")
	f.out.queue = nil
	if err := f.sendDevices(t.Context(), alice.UserNID, []string{away, "third"}); err != nil { // third has left the room
		t.Fatal(err)
	}
	var devices []string
	for _, s := range f.out.queue {
		var u listUpdate
		if err := json.Unmarshal(s.Body, &u); err != nil || s.server != away {
			t.Errorf("told %s %s (%v)", s.server, s.Body, err)
		}
		devices = append(devices, u.DeviceID)
	}
	if want := []string{"A", "B"}; !slices.Equal(devices, want) {
		t.Errorf("told of %q, want %q", devices, want)
	}
}

func TestToDeviceMessagesForOtherServersAreQueuedWithTheRequest(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	big := json.RawMessage(`{"x":"` + strings.Repeat("x", maxEDUMessages/2) + `"}`)
	send := func() error {
		return f.SendToDevice(t.Context(), alice, "p", "txn", "m.test", map[id.UserID]map[id.DeviceID]json.RawMessage{
			far: {"X": big, "Y": big, "Z": json.RawMessage(`{}`)}, "@third:third": {"*": json.RawMessage(`{}`)}, "@bad:not a server": {"X": json.RawMessage(`{}`)},
		})
	}
	if err := errors.Join(send(), send()); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	var devices []string
	for _, s := range f.out.queue {
		var m directToDevice
		if err := json.Unmarshal(s.Body, &m); err != nil {
			t.Fatal(err)
		}
		if ids[m.MessageID] = true; m.Sender != alice.UserID || m.Type != "m.test" || len(s.Body) > maxEDUMessages+1024 || len(m.MessageID) > 32 {
			t.Errorf("sent %.200s", s.Body)
		}
		for user, of := range m.Messages {
			for device := range of {
				devices = append(devices, s.server+" "+string(user)+" "+string(device))
			}
		}
	}
	slices.Sort(devices)
	if want := []string{"elsewhere @far:elsewhere X", "elsewhere @far:elsewhere Y", "elsewhere @far:elsewhere Z", "third @third:third *"}; !slices.Equal(devices, want) || len(ids) != len(f.out.queue) {
		t.Errorf("sent %q under %d ids", devices, len(ids))
	}
	if !slices.Equal(f.out.kicked, []string{"elsewhere", "third"}) {
		t.Errorf("kicked %q", f.out.kicked)
	}
}

func TestToDeviceMessagesOfOtherServersArriveOnceAndInOrder(t *testing.T) {
	f := newFederated(t)
	alice, second := f.device("alice", "A"), f.device("alice", "B")
	receive := func(origin, sender, messageID, to string) error {
		return f.ReceiveDirectToDevice(t.Context(), origin, json.RawMessage(fmt.Sprintf(`{"sender":%q,"type":"m.test","message_id":%q,"messages":{%s}}`, sender, messageID, to)))
	}
	for i, messageID := range []string{"one", "two", "one", "three"} {
		if err := receive(away, string(far), messageID, fmt.Sprintf(`"@alice:test":{"*":{"n":%d}},"@far:elsewhere":{"X":{}},"@nobody:test":{"*":{}}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	// the same message ID from another server
	if err := receive("third", "@far:third", "one", `"@alice:test":{"A":{"n":4}}`); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[ident.DeviceNID][]int{alice.DeviceNID: {0, 1, 3, 4}, second.DeviceNID: {0, 1, 3}} {
		var got []int
		f.read(func(tx *storage.Tx) error {
			rows, err := f.ToDevice(tx, device, 0, tx.Settled(), 100)
			for _, r := range rows {
				var m struct{ Content struct{ N int } }
				if err := json.Unmarshal([]byte(r.JSON), &m); err != nil {
					return err
				}
				got = append(got, m.Content.N)
			}
			return err
		})
		if !slices.Equal(got, want) {
			t.Errorf("device %d got %v, want %v", device, got, want)
		}
	}
	wantCode(t, receive("third", string(far), "x", `"@alice:test":{"A":{}}`), "M_FORBIDDEN")
	wantCode(t, receive(serverName, string(far), "x", `"@alice:test":{"A":{}}`), "M_FORBIDDEN")
	wantCode(t, receive(away, string(far), "", `"@alice:test":{"A":{}}`), "M_INVALID_PARAM")
	wantCode(t, receive(away, string(far), "x", `"@alice:test":{"A":5}`), "M_BAD_JSON")
	wantCode(t, receive(away, string(far), "x", `"@alice:test":{"A":{"x":"`+strings.Repeat("x", maxToDeviceContent)+`"}}`), "M_TOO_LARGE")
	if f.ReceiveDirectToDevice(t.Context(), away, json.RawMessage(`{"sender":5}`)) == nil {
		t.Error("a sender that is a number is taken")
	}
}

func TestKeysClaimedFromOtherServersAreChecked(t *testing.T) {
	f := newFederated(t)
	f.net.claims = `{"one_time_keys":{"@far:elsewhere":{"X":{"signed_curve25519:A":{"key":"k","signatures":{}},"signed_curve25519:B":{"key":"k"}},
		"EXTRA":{"signed_curve25519:A":{"key":"k"}},"Y":{"other:A":{"key":"k"}},"Z":{"signed_curve25519:A":{"key":5}}},"@alice:test":{"A":{"signed_curve25519:A":{"key":"evil"}}}}}`
	wanted := map[id.UserID]map[id.DeviceID]string{far: {"X": "signed_curve25519", "Y": "signed_curve25519", "Z": "signed_curve25519"}}
	claims, failures, err := f.Claim(t.Context(), wanted, 0)
	if err != nil || len(failures) != 0 || len(claims) != 1 || len(claims[far]) != 1 || len(claims[far]["X"]) != 1 {
		t.Errorf("claims %v, failures %v (%v)", claims, failures, err)
	}
	f.net.down = true
	if _, failures, err = f.Claim(t.Context(), wanted, 0); err != nil || failures[away] == nil {
		t.Errorf("failures %v (%v)", failures, err)
	}
}

func TestAServerSeesNoForeignSignatureAndNoUserSigningKey(t *testing.T) {
	f := newFederated(t)
	alice := f.device("alice", "A")
	must(f.Upload(t.Context(), alice, UploadKeys{DeviceKeys: identity(alice, "")}))
	f.crossSign(alice)
	f.write(func(tx *storage.Tx) error {
		mallory, err := tx.UserNID("@mallory:test")
		if err != nil {
			return err
		}
		return errors.Join(
			tx.AddKeySignature(alice.UserNID, storage.KeySignature{TargetKey: "A", Signer: mallory, KeyID: "ed25519:M", Signature: "secret"}),
			tx.AddKeySignature(alice.UserNID, storage.KeySignature{TargetKey: "A", Signer: alice.UserNID, KeyID: "ed25519:S", Signature: "own"}))
	})
	keys := must(f.QueryForServer(t.Context(), map[id.UserID][]id.DeviceID{alice.UserID: {}, far: {}}))
	text := string(must(json.Marshal(keys)))
	if len(keys.UserSigningKeys) != 0 || strings.Contains(text, "secret") || !strings.Contains(text, `"own"`) || len(keys.MasterKeys) != 1 || len(keys.SelfSigningKeys) != 1 || len(f.net.asked) != 0 {
		t.Errorf("a server is told %s", text)
	}
	_, err := f.UserDevices(t.Context(), far)
	wantCode(t, err, "M_INVALID_PARAM")
	_, err = f.UserDevices(t.Context(), "@nobody:test")
	wantCode(t, err, "M_NOT_FOUND")
}
