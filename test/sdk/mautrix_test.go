//go:build goolm

package sdk

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"ebb/test/process"
)

const botPassword = "the bot's long password"

// bot is a mautrix client with goolm crypto.
type bot struct {
	*mautrix.Client
	heard chan *event.Event // decrypted messages from other users
}

// mautrixBot invites a bot, which joins, reads encrypted messages and replies with encrypted ones.
func mautrixBot(t *testing.T, s *scene) {
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	defer cancel()
	b := startBot(ctx, t, s)
	s.alice.Must(t, http.MethodPost, process.Path("rooms", s.room, "invite"), object{"user_id": b.UserID})
	if _, err := b.JoinRoomByID(ctx, id.RoomID(s.room)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob", "alice-phone"} {
		s.do(t, "awaitMember", object{"name": name, "roomId": s.room, "userId": b.UserID})
	}
	for _, name := range []string{"alice", "bob"} {
		eventID := s.say(t, name, "Hello bot, here is "+name)
		heard := b.await(ctx, t, id.EventID(eventID))
		if message := heard.Content.AsMessage(); message.Body != "Hello bot, here is "+name || !heard.Mautrix.WasEncrypted {
			t.Fatalf("the bot heard %q", message.Body)
		}
		b.reply(ctx, t, s, "Hello "+name)
	}
}

// reply sends an encrypted message and checks that the others can read it.
func (b *bot) reply(ctx context.Context, t *testing.T, s *scene, body string) {
	t.Helper()
	sent, err := b.SendText(ctx, id.RoomID(s.room), body)
	if err != nil {
		t.Fatal(err)
	}
	for _, reader := range []string{"alice", "bob", "alice-phone"} {
		got := s.do(t, "read", object{"name": reader, "roomId": s.room, "eventId": sent.EventID})
		if got["body"] != body || got["sender"] != b.UserID.String() || got["wireType"] != "m.room.encrypted" {
			t.Fatalf("%s reads %v", reader, got)
		}
	}
}

func (b *bot) await(ctx context.Context, t *testing.T, eventID id.EventID) *event.Event {
	t.Helper()
	return await(ctx, t, b.heard, eventID)
}

// startBot registers the bot and logs it in.
func startBot(ctx context.Context, t *testing.T, s *scene) *bot {
	t.Helper()
	registerBot(t, s)
	return signedIn(ctx, t, s.server)
}

// signedIn logs the bot in with mautrix, and syncs until the end of the test.
func signedIn(ctx context.Context, t *testing.T, server *process.Server) *bot {
	t.Helper()
	client, err := mautrix.NewClient(server.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	helper, err := cryptohelper.NewCryptoHelper(client, []byte("pickle"), filepath.Join(t.TempDir(), "bot.db"))
	if err != nil {
		t.Fatal(err)
	}
	helper.LoginAs = &mautrix.ReqLogin{Type: mautrix.AuthTypePassword, Password: botPassword,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: "bot"}}
	if err := helper.Init(ctx); err != nil {
		t.Fatal(err)
	}
	client.Crypto = helper
	b := &bot{Client: client, heard: make(chan *event.Event, 256)}
	client.Syncer.(mautrix.ExtensibleSyncer).OnEventType(event.EventMessage, func(_ context.Context, e *event.Event) {
		if e.Sender != client.UserID {
			b.heard <- e
		}
	})
	syncing, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- client.SyncWithContext(syncing) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-ended:
		case <-time.After(stepTimeout):
			t.Error("the bot's sync does not end")
		}
		if err := helper.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func registerBot(t *testing.T, s *scene) {
	t.Helper()
	account := object{"username": "bot", "password": botPassword, "inhibit_login": true}
	c := s.server.NewClient()
	status, answer, err := c.Do(t.Context(), http.MethodPost, process.Path("register"), account)
	if err != nil || status != http.StatusUnauthorized {
		t.Fatal(status, answer, err)
	}
	account["auth"] = object{"type": "m.login.registration_token", "token": s.token, "session": answer["session"]}
	c.Must(t, http.MethodPost, process.Path("register"), account)
}
