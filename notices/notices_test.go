package notices

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mail"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// house is a server with a Service and two users.
type house struct {
	t          *testing.T
	db         *storage.DB
	rooms      *rooms.Service
	notices    *Service
	options    Options
	now        time.Time
	alice, bob ident.Requester
	failAt     atomic.Int64 // counts down the statements of writes; the write with the last one fails
}

// newHouse opens a server. db may be nil for one with a database of its own, whose writes can fail.
func newHouse(t *testing.T, db *storage.DB) *house {
	t.Helper()
	h := &house{t: t, db: db, now: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)}
	if db == nil {
		h.db = storagetest.Open(t, storage.Config{OnStatement: h.observe, Now: func() time.Time { return h.now }})
	}
	h.options = Options{Server: "here", Localpart: "notices", RoomName: "Notices", PublicURL: "https://here.example", Alerts: Alerts{true, true, true, true}}
	h.start()
	h.alice, h.bob = h.user("alice"), h.user("bob")
	return h
}

// observe ends the goroutine of the write that the test has chosen, which rolls it back: nothing of it is stored.
func (h *house) observe(_ context.Context, query string) {
	if strings.HasPrefix(query, "SELECT") || strings.Contains(query, "SAVEPOINT") || h.failAt.Load() == 0 {
		return
	}
	if h.failAt.Add(-1) == 0 {
		runtime.Goexit()
	}
}

// start opens the services on the database, as a restart does.
func (h *house) start() {
	h.t.Helper()
	var err error
	h.rooms, err = rooms.New(h.t.Context(), rooms.Options{
		DB: h.db, Server: "here", Hub: wake.New(), Commits: rooms.NewCommits(), NoticeSender: "@notices:here",
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	h.ok(err)
	o := h.options
	o.DB, o.Rooms, o.Now = h.db, h.rooms, func() time.Time { return h.now }
	h.notices = New(o)
}

func (h *house) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) user(name string) ident.Requester {
	h.t.Helper()
	who := ident.Requester{UserID: id.NewUserID(name, "here")}
	h.ok(h.db.Write(h.t.Context(), func(tx *storage.Tx) (err error) {
		if who.UserNID, err = tx.UserNID(string(who.UserID)); err != nil {
			return err
		}
		_, err = tx.AddAccount(storage.AccountRow{NID: who.UserNID, Localpart: name}, "")
		return err
	}))
	return who
}

func (h *house) add(n Notice) {
	h.t.Helper()
	h.ok(h.db.Write(h.t.Context(), func(tx *storage.Tx) error { return h.notices.Add(tx, n) }))
}

func (h *house) deliver() { h.t.Helper(); h.ok(h.notices.Deliver(h.t.Context())) }

// got returns the bodies of the notices in the rooms to which a user is invited or joined, and the number of rooms.
func (h *house) got(who ident.Requester) (bodies []string, inRooms int) {
	h.t.Helper()
	memberships, err := h.rooms.Memberships(h.t.Context(), who.UserNID)
	h.ok(err)
	for _, m := range memberships {
		if m.Membership != rooms.Invite && m.Membership != rooms.Join {
			continue
		}
		inRooms++
		h.ok(h.db.Read(h.t.Context(), func(tx *storage.Tx) error {
			events, err := tx.Timeline(m.Room, 0, math.MaxInt64, false, 1000)
			for _, e := range events {
				var message struct {
					Content struct {
						Msgtype string
						Body    string
					}
				}
				if err := json.Unmarshal(e.JSON, &message); err != nil {
					return err
				}
				if message.Content.Msgtype == "m.server_notice" {
					bodies = append(bodies, message.Content.Body)
				}
			}
			return err
		}))
	}
	return bodies, inRooms
}

func (h *house) waiting() int64 {
	h.t.Helper()
	n := int64(0)
	h.ok(h.db.Read(h.t.Context(), func(tx *storage.Tx) error {
		for _, who := range []ident.Requester{h.alice, h.bob} {
			own, err := tx.CountNotices(who.UserNID)
			if err != nil {
				return err
			}
			n += own
		}
		return nil
	}))
	return n
}

// tokens returns the tokens of the links in messages.
func tokens(bodies ...string) (list []string) {
	for _, b := range bodies {
		if _, after, found := strings.Cut(b, LinkPath+"?token="); found {
			token, _, _ := strings.Cut(after, "\n")
			list = append(list, token)
		}
	}
	return list
}

func TestANoticeIsSentExactlyOnceWhateverWriteFails(t *testing.T) {
	for at := int64(1); ; at++ {
		h := newHouse(t, nil)
		h.add(Notice{User: h.alice.UserNID, Kind: PasswordChanged})
		h.add(Notice{User: h.alice.UserNID, Kind: EmailChanged, Details: Details{What: "an e-mail address was added"}})
		h.failAt.Store(at)
		failed := h.notices.Deliver(t.Context()) != nil
		if h.failAt.Swap(0) != 0 { // all statements have succeeded
			if failed || at < 10 {
				t.Fatalf("%d statements, failed: %v", at, failed)
			}
			return
		}
		h.start()
		h.deliver()
		bodies, inRooms := h.got(h.alice)
		if len(bodies) != 2 || inRooms != 1 || !strings.Contains(bodies[0], "password") || !strings.Contains(bodies[1], "e-mail address was added") || h.waiting() != 0 {
			t.Fatalf("after statement %d failed: %d rooms, %d waiting, %q", at, inRooms, h.waiting(), bodies)
		}
		for _, token := range tokens(bodies...) {
			if !h.linked(token) {
				t.Errorf("after statement %d failed, a link is unknown", at)
			}
		}
	}
}

// linked reports whether the link with a token works.
func (h *house) linked(token string) (found bool) {
	h.t.Helper()
	h.ok(h.db.Read(h.t.Context(), func(tx *storage.Tx) (err error) {
		_, found, err = tx.Disavowal(gate.KeyOf(token).String())
		return err
	}))
	return found
}

func TestNoticesComeInARoomOfTheServer(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		h.now = time.Now()
		h.add(Notice{User: h.alice.UserNID, Kind: PasswordChanged})
		h.add(Notice{User: h.alice.UserNID, Kind: Announcement, Details: Details{Text: "Hello"}})
		h.deliver()
		bodies, inRooms := h.got(h.alice)
		if inRooms != 1 || len(bodies) != 2 || bodies[1] != "Hello" || len(tokens(bodies...)) != 1 {
			t.Fatalf("%d rooms: %q", inRooms, bodies)
		}
		room := h.room(h.alice)
		if room.Membership(h.alice.UserID) != rooms.Invite || room.Membership("@notices:here") != rooms.Join || room.Encrypted() {
			t.Errorf("alice is %s in the room, encrypted: %v", room.Membership(h.alice.UserID), room.Encrypted())
		}
		h.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
			content, found, err := tx.AccountData(h.alice.UserNID, room.NID(), "m.tag")
			if !found || !strings.Contains(content, `"m.server_notice"`) {
				t.Errorf("the tags of the room are %s", content)
			}
			return err
		}))
		var code *mxerr.Error
		if err := h.rooms.Leave(t.Context(), h.alice, room.ID(), ""); !errors.As(err, &code) || code.Code != "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM" {
			t.Errorf("rejecting the invite: %v", err)
		}
		key := string(h.alice.UserID)
		_, err := h.rooms.Send(t.Context(), rooms.NewEvent{Room: room.ID(), Sender: h.alice, Type: "m.room.member", StateKey: &key, Content: []byte(`{"membership":"leave"}`)})
		if !errors.As(err, &code) || code.Code != "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM" {
			t.Errorf("rejecting the invite with an event: %v", err)
		}
		h.ok(h.rooms.Join(t.Context(), h.alice, room.ID(), ""))
		if _, err := h.rooms.Send(t.Context(), rooms.NewEvent{Room: room.ID(), Sender: h.alice, Type: "m.room.message", Content: []byte(`{"body":"x","msgtype":"m.text"}`)}); err == nil {
			t.Error("a user can send to the room of notices")
		}
		h.ok(h.rooms.Leave(t.Context(), h.alice, room.ID(), ""))
		h.add(Notice{User: h.alice.UserNID, Kind: Announcement, Details: Details{Text: "Again"}})
		h.deliver()
		if h.room(h.alice).ID() != room.ID() || room.Membership(h.alice.UserID) != rooms.Invite {
			t.Errorf("after leaving, alice is %s", room.Membership(h.alice.UserID))
		}
		h.ok(h.rooms.LeaveAll(t.Context(), h.alice)) // as in a deactivation
		if room.Membership(h.alice.UserID) != rooms.Leave {
			t.Error("a deactivated user stays invited")
		}
	})
}

// room returns the room of a user's notices.
func (h *house) room(who ident.Requester) *rooms.Room {
	h.t.Helper()
	var n storage.NoticeRoom
	h.ok(h.db.Read(h.t.Context(), func(tx *storage.Tx) (err error) {
		n, _, err = tx.NoticeRoom(who.UserNID)
		return err
	}))
	r, err := h.rooms.RoomByNID(h.t.Context(), n.Room)
	h.ok(err)
	return r
}

func TestAlertsOfAUserAreBounded(t *testing.T) {
	h := newHouse(t, nil)
	for range 3 * maxPerHour {
		h.add(Notice{User: h.alice.UserNID, Kind: SignedIn, Details: Details{Device: "X", NewDevice: true}})
	}
	h.add(Notice{User: h.alice.UserNID, Kind: PasswordChanged})
	h.deliver()
	bodies, _ := h.got(h.alice)
	if len(bodies) != maxPerHour+1 || !strings.Contains(bodies[maxPerHour-1], moreAdvice) || strings.Contains(bodies[maxPerHour-2], moreAdvice) {
		t.Errorf("%d notices: %q", len(bodies), bodies)
	}
	h.now = h.now.Add(time.Hour)
	h.add(Notice{User: h.alice.UserNID, Kind: SignedIn, Details: Details{Device: "X", NewDevice: true}})
	h.deliver()
	if later, _ := h.got(h.alice); len(later) != len(bodies)+1 {
		t.Errorf("an hour later, there are %d notices", len(later))
	}
}

func TestMessagesShowNoTextOfWhoeverSignsIn(t *testing.T) {
	h := newHouse(t, nil)
	h.add(Notice{User: h.alice.UserNID, Kind: SignedIn, Details: Details{Device: "A\nB", Name: "Log in at https://evil.example/ now " + strings.Repeat("x", 100), NewDevice: true}})
	h.deliver()
	bodies, _ := h.got(h.alice)
	if len(bodies) != 1 || strings.Contains(bodies[0], "evil.example") || strings.Contains(bodies[0], strings.Repeat("x", maxShown)) || !strings.Contains(bodies[0], "A B (Log in at https evil example now ") {
		t.Errorf("%q", bodies)
	}
}

func TestSignInsFromNewDevicesAndNetworks(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db)
		h.options.KeepNetworks = 30 * 24 * time.Hour
		h.start()
		h.now = time.Now()
		sign := func(device, network string, quiet bool) (alerts int64) {
			t.Helper()
			before := h.waiting()
			h.ok(db.Write(t.Context(), func(tx *storage.Tx) error {
				in := SignIn{User: h.alice.UserNID, DeviceID: device, Network: network, Quiet: quiet}
				d, found, err := tx.Device(h.alice.UserNID, device)
				if err != nil {
					return err
				}
				if in.Device, in.New = d.NID, !found && device != ""; in.New {
					if in.Device, err = tx.AddDevice(h.alice.UserNID, device, nil); err != nil {
						return err
					}
				}
				return h.notices.SignedIn(tx, in)
			}))
			return h.waiting() - before
		}
		for _, c := range []struct {
			device, network string
			quiet           bool
			want            int64
			why             string
		}{
			{"A", "192.0.2.1", true, 0, "a registration"},
			{"A", "192.0.2.99", false, 0, "the same device in the same /24"},
			{"A", "192.0.3.1", false, 1, "another network"},
			{"A", "192.0.3.2", false, 0, "this network again"},
			{"B", "192.0.2.1", false, 1, "another device"},
			{"", "192.0.2.1", false, 0, "a browser in a known network"},
			{"", "198.51.100.1", false, 1, "a browser in another network"},
			{"A", "2001:db8:1:2::/64", false, 1, "IPv6"},
			{"A", "2001:db8:1:3::/64", false, 0, "the same /48"},
			{"A", "", false, 0, "an unknown network"},
			{"C", "192.0.2.1", true, 0, "an application service"},
		} {
			if got := sign(c.device, c.network, c.quiet); got != c.want {
				t.Errorf("%s: %d alerts", c.why, got)
			}
		}
		h.ok(h.notices.Prune(t.Context()))
		stored := func() (networks int) {
			h.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
				known, err := tx.KnownNetworks(h.alice.UserNID, 0, 100)
				networks = len(known)
				for _, k := range known {
					if strings.Contains(k, "192") {
						t.Errorf("an address is stored: %s", k)
					}
				}
				return err
			}))
			return networks
		}
		if n := stored(); n != 4 {
			t.Errorf("%d networks are stored", n)
		}
		address := func() (addr string) {
			h.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
				d, _, err := tx.Device(h.alice.UserNID, "A")
				addr = d.SeenAddr + d.UserAgent
				return err
			}))
			return addr
		}
		h.ok(db.Write(t.Context(), func(tx *storage.Tx) error {
			d, _, err := tx.Device(h.alice.UserNID, "A")
			if err != nil {
				return err
			}
			return tx.DeviceSeen(d.NID, h.now.UnixMilli(), "192.0.2.1", "agent")
		}))
		h.ok(h.notices.Prune(t.Context()))
		if address() == "" {
			t.Error("the address of a device is removed too early")
		}
		h.now = h.now.Add(h.options.KeepNetworks + time.Hour)
		h.ok(h.notices.Prune(t.Context()))
		if n := stored(); n != 0 {
			t.Errorf("%d networks are stored after their lifetime", n)
		}
		if addr := address(); addr != "" {
			t.Errorf("the address of a device is stored after its lifetime: %s", addr)
		}
	})
}

func TestTheFirstSignInCausesNoAlert(t *testing.T) {
	h := newHouse(t, nil)
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error {
		nid, err := tx.AddDevice(h.alice.UserNID, "A", nil)
		if err != nil {
			return err
		}
		return h.notices.SignedIn(tx, SignIn{User: h.alice.UserNID, Device: nid, DeviceID: "A", New: true, Network: "192.0.2.1"})
	}))
	if n := h.waiting(); n != 0 {
		t.Errorf("%d alerts", n)
	}
}

// postbox is a Mailer.
type postbox struct {
	fail error
	got  []mail.Message
}

// Send implements Mailer.
func (p *postbox) Send(_ context.Context, m mail.Message) error {
	if p.fail == nil {
		p.got = append(p.got, m)
	}
	return p.fail
}

func TestAlertsAreSentByEmail(t *testing.T) {
	h := newHouse(t, nil)
	box := &postbox{fail: errors.New("unreachable")}
	h.options.Mail = box
	h.start()
	h.ok(h.db.Write(t.Context(), func(tx *storage.Tx) error {
		for _, a := range []string{"a@example.org", "b@example.org"} {
			if _, err := tx.AddEmail(storage.EmailRow{Address: a, User: h.alice.UserNID}); err != nil {
				return err
			}
		}
		return nil
	}))
	h.add(Notice{User: h.alice.UserNID, Kind: EmailChanged, Details: Details{What: "an e-mail address was removed"}, MailTo: "old@example.org"})
	h.add(Notice{User: h.bob.UserNID, Kind: PasswordChanged}) // who has no address
	h.add(Notice{User: h.alice.UserNID, Kind: Announcement, Details: Details{Text: "Hello"}})
	h.deliver()
	pause, err := h.notices.SendMail(t.Context())
	if h.ok(err); pause != mailPause || h.waiting() != 1 {
		t.Fatalf("the next e-mail is tried in %v, %d are waiting", pause, h.waiting())
	}
	box.fail = nil
	h.now = h.now.Add(mailPause)
	_, err = h.notices.SendMail(t.Context())
	h.ok(err)
	to := ""
	for _, m := range box.got {
		to += m.To + " "
		if found := tokens(m.Text); len(found) != 1 || !h.linked(found[0]) || !strings.Contains(m.HTML, "<a href=") {
			t.Errorf("the e-mail is %+v", m)
		}
	}
	if to != "old@example.org a@example.org b@example.org " || h.waiting() != 0 {
		t.Errorf("e-mails to %s, %d waiting", to, h.waiting())
	}
	h.add(Notice{User: h.alice.UserNID, Kind: PasswordChanged})
	box.fail = fmt.Errorf("%w: no such address", mail.ErrRefused)
	h.deliver()
	if _, err = h.notices.SendMail(t.Context()); err != nil || h.waiting() != 0 {
		t.Errorf("a refused e-mail: %v, %d waiting", err, h.waiting())
	}
}

func TestSeveralWrongCodesAlertTheUserOnce(t *testing.T) {
	h := newHouse(t, nil)
	for range maxWrong - 1 {
		h.notices.WrongCode("alice")
	}
	h.notices.WrongCode("nobody")
	h.deliver()
	if bodies, _ := h.got(h.alice); len(bodies) != 0 {
		t.Errorf("too early: %q", bodies)
	}
	for range 3 * maxWrong {
		h.notices.WrongCode("alice")
	}
	h.deliver()
	if bodies, _ := h.got(h.alice); len(bodies) != 1 || !strings.Contains(bodies[0], "several wrong codes") {
		t.Errorf("%q", bodies)
	}
}

func TestTheAccountThatSendsNoticesBelongsToNobodyElse(t *testing.T) {
	h := newHouse(t, nil)
	h.ok(h.notices.Check(t.Context()))
	h.user("notices")
	if err := h.notices.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "notices.localpart") {
		t.Errorf("the account of a user: %v", err)
	}
	if !h.notices.Reserves("Notices") || h.notices.Reserves("notices2") {
		t.Error("the wrong names are reserved")
	}
}

func TestAnnouncementsReachAllUsers(t *testing.T) {
	h := newHouse(t, nil)
	for range 2 { // the second time, there is the account that sends notices
		n, err := h.notices.Announce(t.Context(), "", "  Maintenance tonight ")
		if h.ok(err); n != 2 {
			t.Errorf("announced to %d users", n)
		}
		h.deliver()
	}
	for _, who := range []ident.Requester{h.alice, h.bob} {
		if bodies, inRooms := h.got(who); len(bodies) != 2 || inRooms != 1 || bodies[0] != "Maintenance tonight" {
			t.Errorf("%s: %q", who.UserID, bodies)
		}
	}
	for _, c := range []struct {
		user id.UserID
		text string
	}{{"@nobody:here", "x"}, {"@alice:there", "x"}, {"@notices:here", "x"}, {"@alice:here", " "}, {"@alice:here", strings.Repeat("x", maxText+1)}} {
		if _, err := h.notices.Announce(t.Context(), c.user, c.text); err == nil {
			t.Errorf("%s was sent %.10q", c.user, c.text)
		}
	}
}
