//go:build goolm

package sdk

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"ebb/test/process"
)

// TestBridgeWithEncryption has a user talk with a bridge's bot, which uses mautrix, in an encrypted room. The bot
// receives events, to-device messages and the state of its keys in transactions (MSC3202), and creates its device
// without logging in (MSC4190).
func TestBridgeWithEncryption(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b := newBridge(t, binary)
	person := b.person(ctx, t)
	created, err := person.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", Invite: []id.UserID{b.bot.UserID},
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.awaitJoin(ctx, t, person, created.RoomID, b.bot.UserID)
	for i := range 3 {
		text := fmt.Sprint("Hello bridge ", i)
		sent, err := person.SendText(ctx, created.RoomID, text)
		if err != nil {
			t.Fatal(err)
		}
		heard := await(ctx, t, b.heard, sent.EventID)
		if heard.Content.AsMessage().Body != text || !heard.Mautrix.WasEncrypted {
			t.Fatalf("the bridge read %v", heard.Content.Raw)
		}
		answer := <-b.answered
		if got := await(ctx, t, person.heard, answer); got.Content.AsMessage().Body != "Heard: "+text || !got.Mautrix.WasEncrypted {
			t.Fatalf("the person read %v", got.Content.Raw)
		}
	}
	ghost := b.as.Intent(id.NewUserID("_bridge_friend", b.server.Name))
	if _, err := person.InviteUser(ctx, created.RoomID, &mautrix.ReqInviteUser{UserID: ghost.UserID}); err != nil {
		t.Fatal(err)
	}
	if err := ghost.EnsureJoined(ctx, created.RoomID); err != nil {
		t.Fatal(err)
	}
	b.awaitJoin(ctx, t, person, created.RoomID, ghost.UserID)
	if _, err := b.bot.Client.AppservicePing(ctx, b.as.Registration.ID, "ping"); err != nil {
		t.Error(err)
	}
}

// testBridge is an application service whose bot replies to encrypted messages.
type testBridge struct {
	server   *process.Server
	as       *appservice.AppService
	bot      *appservice.IntentAPI
	heard    chan *event.Event
	answered chan id.EventID
}

func newBridge(t *testing.T, binary process.Binary) *testBridge {
	t.Helper()
	registration := appservice.CreateRegistration()
	registration.ID, registration.SenderLocalpart = "bridge", "bridgebot"
	registration.EphemeralEvents, registration.SoruEphemeralEvents, registration.MSC3202, registration.MSC4190 = true, true, true, true
	registration.Namespaces.UserIDs = appservice.NamespaceList{{Regex: "@_bridge_.*", Exclusive: true}, {Regex: "@bridgebot:.*", Exclusive: true}}
	as := appservice.Create()
	listener := httptest.NewServer(as.Router)
	t.Cleanup(listener.Close)
	registration.URL = listener.URL
	file := filepath.Join(t.TempDir(), "registration.yaml")
	if err := registration.Save(file); err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Config: "registration: {mode: open}\nrate_limits: {enabled: false}\nappservices: [" + file + "]"})
	as.Registration, as.HomeserverDomain = registration, s.Name
	if err := as.SetHomeserverURL(s.URL); err != nil {
		t.Fatal(err)
	}
	b := &testBridge{server: s, as: as, bot: as.BotIntent(), heard: make(chan *event.Event, 64), answered: make(chan id.EventID, 64)}
	b.start(t)
	return b
}

// start gives the bot a device with keys, and handles the content of transactions.
func (b *testBridge) start(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	if err := b.bot.EnsureRegistered(ctx); err != nil {
		t.Fatal(err)
	}
	events := appservice.NewEventProcessor(b.as)
	client := b.bot.Client
	client.SetAppServiceDeviceID, client.Syncer = true, nil
	helper, err := cryptohelper.NewCryptoHelper(client, []byte("pickle"), filepath.Join(t.TempDir(), "bridge.db"))
	if err != nil {
		t.Fatal(err)
	}
	helper.MSC4190, helper.ASEventProcessor = true, events
	helper.LoginAs = &mautrix.ReqLogin{InitialDeviceDisplayName: "Bridge"}
	if err := helper.Init(ctx); err != nil {
		t.Fatal(err)
	}
	client.Crypto = helper
	helper.CustomPostDecrypt = func(ctx context.Context, e *event.Event) { b.answer(ctx, t, e) }
	events.On(event.StateMember, func(ctx context.Context, e *event.Event) {
		if e.GetStateKey() == b.bot.UserID.String() && e.Content.AsMember().Membership == event.MembershipInvite {
			if _, err := client.JoinRoomByID(ctx, e.RoomID); err != nil {
				t.Error(err)
			}
		}
	})
	running, stop := context.WithCancel(ctx)
	events.Start(running)
	t.Cleanup(func() {
		stop()
		events.Stop()
		if err := helper.Close(); err != nil {
			t.Error(err)
		}
	})
}

// answer replies to a decrypted message.
func (b *testBridge) answer(ctx context.Context, t *testing.T, e *event.Event) {
	if e.Type != event.EventMessage || e.Sender == b.bot.UserID {
		return
	}
	b.heard <- e
	if _, err := b.bot.Client.State(ctx, e.RoomID); err != nil { // loads the members and the encryption settings of the room into the store
		t.Error(err)
	}
	sent, err := b.bot.Client.SendText(ctx, e.RoomID, "Heard: "+e.Content.AsMessage().Body)
	if err != nil {
		t.Error(err)
		return
	}
	b.answered <- sent.EventID
}

// person registers a user with an encrypting client, which syncs until the end of the test.
func (b *testBridge) person(ctx context.Context, t *testing.T) *bot {
	t.Helper()
	account := object{"username": "bot", "password": botPassword, "inhibit_login": true, "auth": object{"type": "m.login.dummy"}}
	b.server.NewClient().Must(t, http.MethodPost, process.Path("register"), account)
	return signedIn(ctx, t, b.server)
}

func (b *testBridge) awaitJoin(ctx context.Context, t *testing.T, person *bot, room id.RoomID, user id.UserID) {
	t.Helper()
	for ; ; time.Sleep(50 * time.Millisecond) {
		member, err := person.StateStore.GetMember(ctx, room, user)
		if err != nil {
			t.Fatal(err)
		}
		if member.Membership == event.MembershipJoin {
			return
		}
	}
}

// await waits for a decrypted message.
func await(ctx context.Context, t *testing.T, heard <-chan *event.Event, eventID id.EventID) *event.Event {
	t.Helper()
	for {
		select {
		case e := <-heard:
			if e.ID == eventID {
				return e
			}
		case <-ctx.Done():
			t.Fatalf("nobody reads %s", eventID)
		}
	}
}
