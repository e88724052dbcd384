package e2ee

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/wake"
)

const serverName = "test"

type fixture struct {
	*Service
	t *testing.T
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	db, err := storage.Open(context.Background(), storage.Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "ebb.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{t: t}
	f.Service = New(Options{DB: db, Server: serverName, Hub: wake.New(), Now: time.Now, Log: slog.New(slog.DiscardHandler), Rooms: sharedRooms{f}})
	return f
}

// device creates a device, and its user if necessary.
func (f *fixture) device(localpart, deviceID string) ident.Requester {
	f.t.Helper()
	d := ident.Requester{UserID: id.NewUserID(localpart, serverName), DeviceID: id.DeviceID(deviceID)}
	f.write(func(tx *storage.Tx) (err error) {
		if d.UserNID, err = tx.UserNID(string(d.UserID)); err != nil {
			return err
		}
		name := "name of " + deviceID
		d.DeviceNID, err = tx.AddDevice(d.UserNID, deviceID, &name)
		return err
	})
	return d
}

func (f *fixture) write(do func(*storage.Tx) error) {
	f.t.Helper()
	if err := f.opts.DB.Write(f.t.Context(), do); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(do func(*storage.Tx) error) {
	f.t.Helper()
	if err := f.opts.DB.Read(f.t.Context(), do); err != nil {
		f.t.Fatal(err)
	}
}

// must returns v, and panics if err is not nil.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if mxerr.Code(err) != code {
		t.Fatalf("err = %v, want %s", err, code)
	}
}

func identity(d ident.Requester, extra string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["m.olm.v1.curve25519-aes-sha2"],"keys":{"ed25519:%s":"AAAA"},"signatures":{}%s}`,
		d.UserID, d.DeviceID, d.DeviceID, extra))
}

func oneTime(keyID, key string) map[string]json.RawMessage {
	return map[string]json.RawMessage{"signed_curve25519:" + keyID: json.RawMessage(`{"key":"` + key + `","signatures":{}}`)}
}

func TestOneTimeKeysAreClaimedOldestFirstThenTheFallbackKey(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	for i := range 3 {
		counts := must(f.Upload(t.Context(), alice, UploadKeys{OneTimeKeys: oneTime(fmt.Sprint(9-i), fmt.Sprint("key", i))}))
		if counts["signed_curve25519"] != int64(i+1) {
			t.Fatal(counts)
		}
	}
	fallback := map[string]json.RawMessage{"signed_curve25519:fb": json.RawMessage(`{"key":"last"}`)}
	must(f.Upload(t.Context(), alice, UploadKeys{FallbackKeys: fallback}))
	want := []string{`{"key":"key0","signatures":{}}`, `{"key":"key1","signatures":{}}`, `{"key":"key2","signatures":{}}`, `{"fallback":true,"key":"last"}`, `{"fallback":true,"key":"last"}`}
	for i, key := range want {
		claims, _, err := f.Claim(t.Context(), map[id.UserID]map[id.DeviceID]string{alice.UserID: {"A": "signed_curve25519"}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range claims[alice.UserID]["A"] {
			if string(got) != key {
				t.Errorf("claim %d gives %s, want %s", i, got, key)
			}
		}
		f.read(func(tx *storage.Tx) error {
			_, unused, err := f.KeyCounts(tx, alice.DeviceNID)
			if (len(unused) == 1) != (i < 3) {
				t.Errorf("after claim %d unused fallback keys are %v", i, unused)
			}
			return err
		})
	}
}

func TestConcurrentClaimsNeverGiveOneKeyTwice(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	const n = 60
	keys := map[string]json.RawMessage{}
	for i := range n {
		keys[fmt.Sprintf("signed_curve25519:%d", i)] = json.RawMessage(`{"key":"k"}`)
	}
	must(f.Upload(t.Context(), alice, UploadKeys{OneTimeKeys: keys}))
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range n / 6 {
				claims, _, err := f.Claim(t.Context(), map[id.UserID]map[id.DeviceID]string{alice.UserID: {"A": "signed_curve25519"}}, 0)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				for name := range claims[alice.UserID]["A"] {
					seen[name]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != n {
		t.Errorf("%d keys were given, want %d", len(seen), n)
	}
	for name, times := range seen {
		if times != 1 {
			t.Errorf("%s was given %d times", name, times)
		}
	}
}

func TestRepeatedOneTimeKeyIsAcceptedButADifferentOneIsNot(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	for range 2 {
		if counts := must(f.Upload(t.Context(), alice, UploadKeys{OneTimeKeys: oneTime("1", "a")})); counts["signed_curve25519"] != 1 {
			t.Fatal(counts)
		}
	}
	_, err := f.Upload(t.Context(), alice, UploadKeys{OneTimeKeys: oneTime("1", "b")})
	wantCode(t, err, mxerr.CodeInvalidParam)
}

func TestKeyWithANewSignatureIsTheSameKey(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	signed := func(keyID, signature string) map[string]json.RawMessage {
		return map[string]json.RawMessage{"signed_curve25519:" + keyID: json.RawMessage(fmt.Sprintf(
			`{"key":"k", "signatures":{"@alice:test":{"ed25519:A":%q}}}`, signature))}
	}
	for _, signature := range []string{"one", "two"} {
		up := UploadKeys{OneTimeKeys: signed("1", signature), FallbackKeys: signed("f", signature)}
		if counts := must(f.Upload(t.Context(), alice, up)); counts["signed_curve25519"] != 1 {
			t.Fatal(counts)
		}
	}
	claim := func() string {
		claims, _, err := f.Claim(t.Context(), map[id.UserID]map[id.DeviceID]string{alice.UserID: {"A": "signed_curve25519"}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s", claims[alice.UserID]["A"])
	}
	for _, what := range []string{"one-time key", "fallback key"} {
		if got := claim(); !strings.Contains(got, `"two"`) {
			t.Errorf("the %s claimed is %s, want the newest signature", what, got)
		}
	}
	must(f.Upload(t.Context(), alice, UploadKeys{FallbackKeys: signed("f", "three")}))
	f.read(func(tx *storage.Tx) error {
		unused, err := tx.UnusedFallbackKeys(alice.DeviceNID)
		if len(unused) != 0 {
			t.Errorf("a used fallback key that is signed anew counts as unused")
		}
		return err
	})
}

func TestDeviceKeysAreKeptVerbatimAndRefusedForOthers(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.device("alice", "A"), f.device("bob", "B")
	must(f.Upload(t.Context(), alice, UploadKeys{DeviceKeys: identity(alice, `,"org.example.future":{"x":[1,2.5]}`)}))
	keys := must(f.Query(t.Context(), bob, map[id.UserID][]id.DeviceID{alice.UserID: nil, "@nobody:test": nil, "@far:elsewhere": nil}, 0))
	var got map[string]json.RawMessage
	if err := json.Unmarshal(keys.DeviceKeys[alice.UserID]["A"], &got); err != nil {
		t.Fatal(err)
	}
	if string(got["org.example.future"]) != `{"x":[1,2.5]}` || string(got["unsigned"]) != `{"device_display_name":"name of A"}` {
		t.Fatalf("%s", keys.DeviceKeys[alice.UserID]["A"])
	}
	if len(keys.Failures) != 1 || keys.Failures["elsewhere"] == nil {
		t.Fatal(keys.Failures)
	}
	for name, body := range map[string]json.RawMessage{
		"no signatures":  json.RawMessage(`{"user_id":"@alice:test","device_id":"A","algorithms":[],"keys":{}}`),
		"another device": identity(bob, ""), "a list": json.RawMessage(`[]`), "a string": json.RawMessage(`"x"`),
		"another user, hidden behind upper case": json.RawMessage(`{"user_id":"@bob:test","device_id":"A","algorithms":[],"keys":{},"USER_ID":"@alice:test"}`),
		"keys of a wrong type":                   json.RawMessage(`{"user_id":"@alice:test","device_id":"A","algorithms":[],"keys":{"a":1}}`),
	} {
		if _, err := f.Upload(t.Context(), alice, UploadKeys{DeviceKeys: body}); mxerr.Code(err) != mxerr.CodeBadJSON && mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// signer is a cross-signing or device key pair.
type signer struct {
	public string
	key    ed25519.PrivateKey
}

func newSigner(t *testing.T) signer {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer{base64.RawStdEncoding.EncodeToString(public), key}
}

func (s signer) sign(t *testing.T, user id.UserID, keyID string, raw json.RawMessage) json.RawMessage {
	t.Helper()
	message := must(canonjson.Canonical(canonjson.Without(raw, "signatures", "unsigned"), false))
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	m["signatures"] = map[id.UserID]map[string]string{user: {keyID: base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.key, message))}}
	return must(json.Marshal(m))
}

func crossKey(user id.UserID, usage string, s signer) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"user_id":%q,"usage":[%q],"keys":{"ed25519:%s":%q}}`, user, usage, s.public, s.public))
}

type crossKeys struct{ master, self, user signer }

func (f *fixture) crossSign(d ident.Requester) crossKeys {
	f.t.Helper()
	k := crossKeys{newSigner(f.t), newSigner(f.t), newSigner(f.t)}
	up := UploadCrossSigning{Master: crossKey(d.UserID, usageMaster, k.master)}
	up.SelfSigning = k.master.sign(f.t, d.UserID, "ed25519:"+k.master.public, crossKey(d.UserID, usageSelfSigning, k.self))
	up.UserSigning = k.master.sign(f.t, d.UserID, "ed25519:"+k.master.public, crossKey(d.UserID, usageUserSigning, k.user))
	if err := f.UploadCrossSigning(f.t.Context(), d, up); err != nil {
		f.t.Fatal(err)
	}
	return k
}

func TestFirstCrossSigningUploadNeedsNoAuthReplacementDoes(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	k := newSigner(t)
	first := UploadCrossSigning{Master: crossKey(alice.UserID, usageMaster, k)}
	if needed := must(f.NeedsAuth(t.Context(), alice, first)); needed {
		t.Error("the first upload needs auth")
	}
	if err := f.UploadCrossSigning(t.Context(), alice, first); err != nil {
		t.Fatal(err)
	}
	if needed := must(f.NeedsAuth(t.Context(), alice, first)); needed {
		t.Error("the same upload again needs auth")
	}
	if needed := must(f.NeedsAuth(t.Context(), alice, UploadCrossSigning{Master: crossKey(alice.UserID, usageMaster, newSigner(t))})); !needed {
		t.Error("a replacement needs no auth")
	}
	unsigned := UploadCrossSigning{SelfSigning: crossKey(alice.UserID, usageSelfSigning, newSigner(t))}
	wantCode(t, f.UploadCrossSigning(t.Context(), alice, unsigned), "M_INVALID_SIGNATURE")
	bob := f.device("bob", "B")
	wantCode(t, f.UploadCrossSigning(t.Context(), bob, UploadCrossSigning{SelfSigning: crossKey(bob.UserID, usageSelfSigning, k)}), mxerr.CodeMissingParam)
	wantCode(t, f.UploadCrossSigning(t.Context(), bob, UploadCrossSigning{Master: crossKey(alice.UserID, usageMaster, k)}), mxerr.CodeInvalidParam)
}

func TestUserSigningKeyAndForeignSignaturesStayWithTheirOwner(t *testing.T) {
	f := newFixture(t)
	alice, bob, carol := f.device("alice", "A"), f.device("bob", "B"), f.device("carol", "C")
	a, b := f.crossSign(alice), f.crossSign(bob)
	signed := a.user.sign(t, alice.UserID, "ed25519:"+a.user.public, crossKey(bob.UserID, usageMaster, b.master))
	failures := must(f.UploadSignatures(t.Context(), alice, map[id.UserID]map[string]json.RawMessage{bob.UserID: {b.master.public: signed}}))
	if len(failures) != 0 {
		t.Fatal(failures)
	}
	signatureOfAlice := func(viewer ident.Requester) bool {
		keys := must(f.Query(t.Context(), viewer, map[id.UserID][]id.DeviceID{bob.UserID: nil}, 0))
		var m struct {
			Signatures map[id.UserID]map[string]string `json:"signatures"`
		}
		if err := json.Unmarshal(keys.MasterKeys[bob.UserID], &m); err != nil {
			t.Fatal(err)
		}
		if (keys.UserSigningKeys[bob.UserID] != nil) != (viewer == bob) {
			t.Errorf("%s sees user-signing keys %v", viewer.UserID, keys.UserSigningKeys)
		}
		return m.Signatures[alice.UserID]["ed25519:"+a.user.public] != ""
	}
	if !signatureOfAlice(alice) || signatureOfAlice(bob) || signatureOfAlice(carol) {
		t.Fatal("a signature on another user's master key is the signer's alone")
	}
	f.read(func(tx *storage.Tx) error {
		for viewer, want := range map[ident.Requester]bool{alice: true, carol: false} {
			changed, err := f.DeviceListChanges(tx, viewer.UserNID, 0, f.opts.DB.Settled())
			if err != nil {
				return err
			}
			if slices.Contains(changed, bob.UserNID) != want {
				t.Errorf("%s is told of %v", viewer.UserID, changed)
			}
		}
		return nil
	})
}

func TestDeviceSignaturesAreCheckedAndVisibleToEverybody(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.device("alice", "A"), f.device("bob", "B")
	must(f.Upload(t.Context(), alice, UploadKeys{DeviceKeys: identity(alice, "")}))
	a := f.crossSign(alice)
	good := a.self.sign(t, alice.UserID, "ed25519:"+a.self.public, identity(alice, ""))
	forged := newSigner(t).sign(t, alice.UserID, "ed25519:"+a.self.public, identity(alice, ""))
	changed := a.self.sign(t, alice.UserID, "ed25519:"+a.self.public, identity(alice, `,"more":1`))
	for name, c := range map[string]struct {
		raw  json.RawMessage
		code string
	}{"forged": {forged, "M_INVALID_SIGNATURE"}, "another key": {changed, mxerr.CodeInvalidParam}} {
		failures := must(f.UploadSignatures(t.Context(), alice, map[id.UserID]map[string]json.RawMessage{alice.UserID: {"A": c.raw}}))
		if failures[alice.UserID]["A"]["errcode"] != c.code {
			t.Errorf("%s: %v", name, failures)
		}
	}
	if failures := must(f.UploadSignatures(t.Context(), alice, map[id.UserID]map[string]json.RawMessage{alice.UserID: {"A": good}})); len(failures) != 0 {
		t.Fatal(failures)
	}
	keys := must(f.Query(t.Context(), bob, map[id.UserID][]id.DeviceID{alice.UserID: {"A"}}, 0))
	if !signedBy(keys.DeviceKeys[alice.UserID]["A"], alice.UserID, a.self.public) {
		t.Fatalf("%s", keys.DeviceKeys[alice.UserID]["A"])
	}
}

func TestToDeviceMessagesAreOrderedUniqueAndKeptUntilConfirmed(t *testing.T) {
	f := newFixture(t)
	alice, bob1, bob2 := f.device("alice", "A"), f.device("bob", "B1"), f.device("bob", "B2")
	send := func(txn, body string, to id.DeviceID) {
		t.Helper()
		err := f.SendToDevice(t.Context(), alice, "sendToDevice/m.x", txn, "m.x", map[id.UserID]map[id.DeviceID]json.RawMessage{bob1.UserID: {to: json.RawMessage(body)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	send("1", `{"n":1}`, "*")
	send("1", `{"n":1}`, "*")
	send("2", `{"n":2}`, "B1")
	send("3", `{"n":3}`, "GONE")
	waiting := func(d ident.Requester) (texts []string, last storage.Pos) {
		f.read(func(tx *storage.Tx) error {
			list, err := f.ToDevice(tx, d.DeviceNID, 0, f.opts.DB.Settled(), 100)
			for _, m := range list {
				texts, last = append(texts, m.JSON), m.Position
			}
			return err
		})
		return texts, last
	}
	want := []string{`{"content":{"n":1},"sender":"@alice:test","type":"m.x"}`, `{"content":{"n":2},"sender":"@alice:test","type":"m.x"}`}
	got, last := waiting(bob1)
	if !slices.Equal(got, want) {
		t.Fatal(got)
	}
	if again, _ := waiting(bob1); !slices.Equal(again, want) {
		t.Fatal("a second look gives", again)
	}
	if err := f.AckToDevice(t.Context(), bob1.DeviceNID, last); err != nil {
		t.Fatal(err)
	}
	if got, _ := waiting(bob1); len(got) != 0 {
		t.Fatal(got)
	}
	if got, _ := waiting(bob2); !slices.Equal(got, want[:1]) {
		t.Fatal(got)
	}
}

func TestBackupKeepsTheBetterSession(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	data := json.RawMessage(`{"ciphertext":"x"}`)
	wantCode(t, func() error { _, err := f.Backup(t.Context(), alice.UserNID, ""); return err }(), mxerr.CodeNotFound)
	v1 := must(f.CreateBackup(t.Context(), alice.UserNID, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{"public_key":"k"}`)))
	session := func(index, forwarded int64, verified bool) BackupSession {
		return BackupSession{FirstMessageIndex: &index, ForwardedCount: &forwarded, IsVerified: &verified, SessionData: data}
	}
	put := func(version string, s BackupSession) (BackupChange, error) {
		return f.PutBackupKeys(t.Context(), alice.UserNID, version, BackupRooms{"!r:test": {"s": s}})
	}
	cases := []struct {
		session BackupSession
		kept    bool
	}{
		{session(5, 2, false), true},
		{session(6, 0, false), false},
		{session(5, 2, false), false},
		{session(5, 1, false), true},
		{session(4, 9, false), true},
		{session(8, 9, true), true},
		{session(0, 0, false), false},
	}
	etag := "0"
	for i, c := range cases {
		change := must(put(v1, c.session))
		if (change.ETag != etag) != c.kept || change.Count != 1 {
			t.Errorf("case %d: %+v after etag %s", i, change, etag)
		}
		etag = change.ETag
	}
	v2 := must(f.CreateBackup(t.Context(), alice.UserNID, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{}`)))
	_, err := put(v1, session(0, 0, false))
	wantCode(t, err, mxerr.CodeWrongRoomKeysVersion)
	if err := f.DeleteBackup(t.Context(), alice.UserNID, v2); err != nil {
		t.Fatal(err)
	}
	if v3 := must(f.CreateBackup(t.Context(), alice.UserNID, "a", json.RawMessage(`{}`))); v3 == v2 {
		t.Error("the number of a deleted backup came back")
	}
	_, err = f.ReadBackup(t.Context(), alice.UserNID, v2, "")
	wantCode(t, err, mxerr.CodeNotFound)
}

func TestMessageToAllDevicesDoesNotGrowWithoutBound(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	for i := range 40 {
		f.device("bob", fmt.Sprint("B", i))
	}
	send := func(txn string, size int, users int) error {
		messages := map[id.UserID]map[id.DeviceID]json.RawMessage{}
		for i := range users {
			content := json.RawMessage(`{"a":"` + strings.Repeat("x", size-len(`{"a":""}`)) + `"}`)
			messages[id.NewUserID([]string{"bob", "carol"}[i], serverName)] = map[id.DeviceID]json.RawMessage{allDevices: content}
		}
		return f.SendToDevice(t.Context(), alice, "sendToDevice/m.x", txn, "m.x", messages)
	}
	if err := send("1", maxToDeviceContent, 1); err != nil {
		t.Fatal(err)
	}
	if err := send("2", maxToDeviceContent+1, 1); mxerr.Code(err) != mxerr.CodeTooLarge {
		t.Errorf("a message of more than 64 KiB: %v", err)
	}
	for i := range maxToDeviceBytes/maxToDeviceContent - 39 {
		f.device("carol", fmt.Sprint("C", i))
	}
	if err := send("3", maxToDeviceContent, 2); mxerr.Code(err) != mxerr.CodeTooLarge {
		t.Errorf("two messages of 64 KiB that become more than 32 MiB: %v", err)
	}
}

func TestFallbackKeysOfADeviceAreBounded(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	upload := func(n int) error {
		_, err := f.Upload(t.Context(), alice, UploadKeys{FallbackKeys: map[string]json.RawMessage{fmt.Sprintf("a%d:f", n): json.RawMessage(`"k"`)}})
		return err
	}
	for i := range maxAlgorithms {
		if err := upload(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := upload(maxAlgorithms); mxerr.Code(err) != mxerr.CodeTooLarge {
		t.Errorf("a fallback key of one more algorithm: %v", err)
	}
	if err := upload(0); err != nil {
		t.Errorf("a fallback key in the place of another: %v", err)
	}
}

func TestBackedUpSessionNeedsAllItsMembers(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	version := must(f.CreateBackup(t.Context(), alice.UserNID, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{"public_key":"k"}`)))
	whole := map[string]any{"first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": map[string]any{"ciphertext": "x"}}
	for name := range whole {
		part := maps.Clone(whole)
		delete(part, name)
		for range 2 { // the member is missing, then null
			var session BackupSession
			if err := json.Unmarshal(must(json.Marshal(part)), &session); err != nil {
				t.Fatal(err)
			}
			_, err := f.PutBackupKeys(t.Context(), alice.UserNID, version, BackupRooms{"!r:test": {"s": session}})
			wantCode(t, err, mxerr.CodeMissingParam)
			part[name] = nil
		}
	}
	if got := must(must(f.ReadBackup(t.Context(), alice.UserNID, version, "")).Next(t.Context())); len(got) != 0 {
		t.Errorf("stored all the same: %v", got)
	}
}

func TestWhatADeletedDeviceLeavesIsDeletedInSmallWrites(t *testing.T) {
	f := newFixture(t)
	alice, other, bob := f.device("alice", "A"), f.device("alice", "A2"), f.device("bob", "B")
	for _, d := range []ident.Requester{alice, other} {
		keys := map[string]json.RawMessage{}
		for i := range 300 {
			maps.Copy(keys, oneTime(fmt.Sprint(i), "key"))
		}
		fallback := map[string]json.RawMessage{"signed_curve25519:fb": json.RawMessage(`{"key":"last"}`)}
		must(f.Upload(t.Context(), d, UploadKeys{DeviceKeys: identity(d, ""), OneTimeKeys: keys, FallbackKeys: fallback}))
	}
	f.write(func(tx *storage.Tx) error {
		m := delivery{names: f.names, backlogs: &f.backlogs, sender: bob.UserID, eventType: "m.test"}
		for range 700 {
			for _, d := range []ident.Requester{alice, other} {
				if err := m.add(tx, d.DeviceNID, m.event([]byte("{}"))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	left := func(d ident.Requester) (messages, keys int) {
		f.read(func(tx *storage.Tx) error {
			rows, err := tx.ToDevice(d.DeviceNID, 0, lastPos, 1000)
			counts, err2 := tx.CountOneTimeKeys(d.DeviceNID)
			for _, c := range counts {
				keys += int(c.Count)
			}
			fallback, err3 := tx.CountFallbackKeys(d.DeviceNID)
			messages, keys = len(rows), keys+int(fallback)
			return errors.Join(err, err2, err3)
		})
		return messages, keys
	}
	f.write(func(tx *storage.Tx) error {
		if err := f.DeviceGone(tx, alice.DeviceNID, alice.UserNID, "A"); err != nil {
			return err
		}
		return tx.DeleteDevice(alice.DeviceNID)
	})
	if messages, keys := left(alice); messages != 700 || keys != 301 {
		t.Errorf("the write that deleted the device has left %d messages and %d keys", messages, keys)
	}
	if _, ok := must(f.Query(t.Context(), bob, map[id.UserID][]id.DeviceID{alice.UserID: {}}, 0)).DeviceKeys[alice.UserID]["A"]; ok {
		t.Error("the identity keys of the deleted device are still served")
	}
	if err := f.deleteLeftovers(t.Context()); err != nil {
		t.Fatal(err)
	}
	if messages, keys := left(alice); messages+keys != 0 {
		t.Errorf("%d messages and %d keys of the deleted device are left", messages, keys)
	}
	if messages, keys := left(other); messages != 700 || keys != 301 {
		t.Errorf("another device has only %d messages and %d keys", messages, keys)
	}
}
