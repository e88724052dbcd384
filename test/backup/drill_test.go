// Package backup restores backups of the real program.
package backup

import (
	"bufio"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"ebb/test/process"
)

// drill is a server with a folder of backups and a ledger on "other disks".
type drill struct {
	*process.Server
	t       *testing.T
	binary  string
	backups string
	ledger  string
	key     string // file with the private key
	dsn     string // of the database on PostgreSQL; "" for SQLite
}

// start starts a server. dsn is the address of a database on PostgreSQL, or "" for SQLite.
func start(t *testing.T, dsn string) *drill {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "ebb")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "ebb/cmd/ebb").CombinedOutput(); err != nil {
		t.Fatalf("build ebb: %v\n%s", err, out)
	}
	t.Setenv("EBB_TEST_BINARY", path)
	b, err := process.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &drill{t: t, binary: path, backups: filepath.Join(dir, "backups"), ledger: filepath.Join(dir, "other-disk", "ledger"), key: filepath.Join(dir, "key.txt"), dsn: dsn}
	public := newKey(t, d.key)
	if err := os.Mkdir(filepath.Dir(d.ledger), 0o700); err != nil {
		t.Fatal(err)
	}
	config := "registration: {mode: open}\nrate_limits: {enabled: false}\nbackup: {recipients: [" + public + "], ledger: " + d.ledger
	if dsn == "" {
		config += "}\n"
	} else {
		config += ", keys: " + filepath.Join(dir, "third-disk") + "}\ndatabase: " + dsn + "\ndatabase_keys: keys\n"
	}
	d.Server = process.Start(t, b, process.Options{Config: config})
	return d
}

// postgres creates a database on PostgreSQL and returns its address.
func postgres(t *testing.T) string {
	t.Helper()
	server := os.Getenv("EBB_TEST_POSTGRES")
	if server == "" {
		t.Skip("SKIP PostgreSQL: EBB_TEST_POSTGRES is not set (go run ./internal/pgtest -- go test …)")
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/drill_" + strings.ToLower(rand.Text())
	recreate(t, u.String())
	t.Cleanup(func() { onServer(t, `DROP DATABASE `+u.Path[1:]+` WITH (FORCE)`) })
	return u.String()
}

// recreate deletes a database if it exists, and creates it.
func recreate(t *testing.T, dsn string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	onServer(t, `DROP DATABASE IF EXISTS `+u.Path[1:]+` WITH (FORCE)`)
	onServer(t, `CREATE DATABASE `+u.Path[1:]+` TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'`)
}

func onServer(t *testing.T, statement string) {
	t.Helper()
	db, err := sql.Open("pgx", os.Getenv("EBB_TEST_POSTGRES"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(context.Background(), statement); err != nil {
		t.Fatal(err)
	}
}

// newKey writes a new private key to a file and returns the public part.
func newKey(t *testing.T, file string) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return id.Recipient().String()
}

// run runs a command with the server's configuration, and returns its standard output and its exit code.
func (d *drill) run(args ...string) (out, errors string, code int) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), d.binary, append(args, "--config", d.Config)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		d.t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that succeeds, and returns its standard output.
func (d *drill) must(args ...string) string {
	d.t.Helper()
	out, errors, code := d.run(args...)
	if code != 0 {
		d.t.Fatalf("ebb %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errors)
	}
	return out
}

// refused runs a command that fails with the given exit code and with an error that contains text.
func (d *drill) refused(code int, text string, args ...string) {
	d.t.Helper()
	out, errors, got := d.run(args...)
	if got != code || !strings.Contains(errors, text) {
		d.t.Errorf("ebb %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, text, out, errors)
	}
}

func (d *drill) backup() (report struct {
	Path  string
	Media struct{ Files int }
	Added struct{ Files int }
}) {
	d.t.Helper()
	if err := json.Unmarshal([]byte(d.must("backup", "--json", d.backups)), &report); err != nil {
		d.t.Fatal(err)
	}
	return report
}

// lose deletes data_dir of the stopped server, and its database.
func (d *drill) lose() {
	d.t.Helper()
	if d.dsn != "" {
		recreate(d.t, d.dsn)
	}
	if err := os.RemoveAll(d.DataDir); err != nil {
		d.t.Fatal(err)
	}
}

// killAt starts a command and kills it with SIGKILL when its standard error has a line that contains text.
func (d *drill) killAt(text string, args ...string) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), d.binary, append(args, "--config", d.Config)...)
	pipe, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	for lines.Scan() && !strings.Contains(lines.Text(), text) {
	}
	_ = cmd.Process.Kill() // it may have ended
	_, _ = io.Copy(io.Discard, pipe)
	_ = cmd.Wait() // it was killed
}

// room creates a room of alice in which the other users are.
func room(t *testing.T, alice *process.Client, state []process.Object, others ...*process.Client) string {
	t.Helper()
	id := process.Text(alice.Must(t, "POST", "/_matrix/client/v3/createRoom", process.Object{"preset": "public_chat", "initial_state": state}), "room_id")
	for _, c := range others {
		c.Must(t, "POST", process.Path("join", id), process.Object{})
	}
	return id
}

func say(t *testing.T, c *process.Client, room, text string) (event string) {
	t.Helper()
	path := process.Path("rooms", room, "send", "m.room.message", rand.Text())
	return process.Text(c.Must(t, "PUT", path, process.Object{"msgtype": "m.text", "body": text}), "event_id")
}

// status sends a request and returns the status and the answer.
func status(t *testing.T, c *process.Client, method, path string, body any) (int, process.Object) {
	t.Helper()
	code, answer, err := c.Do(t.Context(), method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return code, answer
}

func login(t *testing.T, s *process.Server, user, password string) (int, *process.Client) {
	t.Helper()
	c := s.NewClient()
	code, answer := status(t, c, "POST", "/_matrix/client/v3/login", process.Object{
		"type": "m.login.password", "identifier": process.Object{"type": "m.id.user", "user": user}, "password": password,
	})
	c.UserID, c.Token, c.Device = process.Text(answer, "user_id"), process.Text(answer, "access_token"), process.Text(answer, "device_id")
	return code, c
}

// retention is the state event that makes messages of a room expire at once.
func retention() process.Object {
	return process.Object{"type": "m.room.retention", "state_key": "", "content": process.Object{"max_lifetime": 1}}
}

func TestWhatWentStaysGoneAfterARestore(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { runDrill(t, start(t, "")) })
	t.Run("postgres", func(t *testing.T) { runDrill(t, start(t, postgres(t))) })
}

func runDrill(t *testing.T, d *drill) {
	alice, bob, carol := d.Register(t, "alice"), d.Register(t, "bob"), d.Register(t, "carol")
	_, lost := login(t, d.Server, "bob", "a password of bob")
	chat, cleared := room(t, alice, nil, bob, carol), room(t, alice, nil)
	expiring := room(t, alice, []process.Object{retention()})
	say(t, alice, chat, "kept-marker")
	say(t, carol, chat, "carols-marker")
	redacted := say(t, alice, chat, "redacted-marker")
	say(t, alice, cleared, "purged-marker")
	say(t, alice, expiring, "expired-marker")
	for _, text := range []string{"newest-1", "newest-2"} {
		say(t, alice, cleared, text) // the newest event of a room leaves a skeleton
		say(t, alice, expiring, text)
	}
	alice.Must(t, "POST", "/_matrix/client/v3/keys/upload", process.Object{"fallback_keys": process.Object{}, "one_time_keys": process.Object{"curve25519:AAAA": "dGhlIGtleQ"}})
	first := upload(t, alice, "the first file")
	since := process.Text(alice.Must(t, "GET", "/_matrix/client/v3/sync", nil), "next_batch")
	pos := process.Text(alice.Must(t, "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", process.Object{}), "pos")

	if r := d.backup(); r.Media.Files != 1 || r.Added.Files != 1 {
		t.Errorf("the first backup has %+v", r)
	}
	second := upload(t, alice, "the second file")
	d.interruptBackup()
	r := d.backup()
	if r.Media.Files != 2 || r.Added.Files != 1 {
		t.Errorf("the second backup has %+v, want two files, one of them new", r)
	}

	// Everything below happens after the backup.
	alice.Must(t, "PUT", process.Path("rooms", chat, "redact", redacted, "r"), process.Object{})
	alice.Must(t, "PUT", process.Path("rooms", cleared, "state", "m.room.retention", ""), process.Object{"max_lifetime": 1})
	d.must("purge", "now", "--all")
	lost.Must(t, "POST", "/_matrix/client/v3/logout", process.Object{})
	d.must("user", "deactivate", "--erase", "carol")
	d.must("room", "retention", "set", "--max", "365d", chat)
	d.must("media", "quarantine", "mxc://"+first)
	setPassword(t, alice, "a password of alice", "another password of alice")
	say(t, alice, chat, "lost-marker")
	later := process.Text(alice.Must(t, "GET", "/_matrix/client/v3/sync", nil), "next_batch")

	d.verify(r.Path)
	d.refused(3, "running", "restore", "--identity", d.key, r.Path)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.refused(3, "not empty", "restore", "--identity", d.key, r.Path)
	d.lose()
	d.killAt("decrypting", "restore", "--identity", d.key, r.Path)
	d.killAt("purging", "restore", "--identity", d.key, r.Path)
	if out, _, code := d.run("user", "list"); code == 0 {
		t.Errorf("a command works on a restore that was not completed:\n%s", out)
	}
	out := d.must("restore", "--identity", d.key, r.Path)
	if !strings.Contains(out, "@alice:localhost had changed the password") {
		t.Errorf("the restore does not name the user whose password has changed:\n%s", out)
	}
	for _, marker := range []string{"redacted-marker", "purged-marker", "expired-marker", "lost-marker"} {
		if found := process.FilesWith(t, d.DataDir, marker); len(found) > 0 {
			t.Errorf("%s is in %v", marker, found)
		}
	}

	d.checkPostgres()

	d.Up(t)
	for text, want := range map[string]bool{"kept-marker": true, "redacted-marker": false, "lost-marker": false} {
		messages := alice.Must(t, "GET", process.Path("rooms", chat, "messages")+"?dir=b&limit=100", nil)
		if raw, _ := json.Marshal(messages); strings.Contains(string(raw), text) != want {
			t.Errorf("the room has %s: %v, want %v", text, !want, want)
		}
	}
	if got := download(t, alice, second); got != "the second file" {
		t.Errorf("the second file is %q after the restore", got)
	}
	if code, _ := status(t, alice, "GET", "/_matrix/client/v1/media/download/"+first, nil); code != 404 {
		t.Errorf("the download of a file that was withdrawn gets %d after the restore", code)
	}
	if out := d.must("room", "retention", "show", chat); !strings.Contains(out, "365d") {
		t.Errorf("the policy that the administrator had set for a room is gone after the restore:\n%s", out)
	}
	if code, _ := status(t, lost, "GET", "/_matrix/client/v3/account/whoami", nil); code != 401 {
		t.Errorf("a device that was signed out gets %d", code)
	}
	if code, _ := status(t, bob, "GET", "/_matrix/client/v3/account/whoami", nil); code != 200 {
		t.Errorf("a device that is signed in gets %d", code)
	}
	for user, password := range map[string]string{"carol": "a password of carol", "alice": "a password of alice"} {
		if code, _ := login(t, d.Server, user, password); code == 200 {
			t.Errorf("%s can sign in with %q", user, password)
		}
	}
	counts := alice.Must(t, "POST", "/_matrix/client/v3/keys/upload", process.Object{})
	if n := process.Number(counts, "one_time_key_counts", "curve25519"); n != 0 {
		t.Errorf("%d one-time keys can be claimed a second time", n)
	}
	for name, token := range map[string]string{"before": since, "after": later} {
		sync := alice.Must(t, "GET", "/_matrix/client/v3/sync?since="+token, nil)
		if state := process.List(sync, "rooms", "join", chat, "state", "events"); len(state)+len(process.List(sync, "rooms", "join", chat, "timeline", "events")) < 5 {
			t.Errorf("a client with a token from %s the backup does not start anew: %d state events", name, len(state))
		}
	}
	if code, answer := status(t, alice, "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?pos="+pos, process.Object{}); code != 400 || process.Text(answer, "errcode") != "M_UNKNOWN_POS" {
		t.Errorf("sliding sync with a pos from before the restore: %d %v", code, answer)
	}
	next := process.Text(alice.Must(t, "GET", "/_matrix/client/v3/sync?since="+later, nil), "next_batch")
	say(t, bob, chat, "after-marker")
	if raw, _ := json.Marshal(alice.Must(t, "GET", "/_matrix/client/v3/sync?since="+next, nil)); !strings.Contains(string(raw), "after-marker") {
		t.Errorf("a message after the restore does not reach a client that goes on")
	}
	d.checkDamagedLedger(r.Path, bob)
}

// checkPostgres checks that no file of the database server has a message in plain text.
func (d *drill) checkPostgres() {
	d.t.Helper()
	if d.dsn == "" {
		return
	}
	onServer(d.t, `CHECKPOINT`)
	u, err := url.Parse(d.dsn)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, marker := range []string{"kept-marker", "redacted-marker", "purged-marker", "expired-marker", "lost-marker"} {
		if found := process.FilesWith(d.t, filepath.Join(u.Query().Get("host"), "data"), marker); len(found) > 0 {
			d.t.Errorf("%s is in %v", marker, found)
		}
	}
	keys, err := filepath.Glob(filepath.Join(filepath.Dir(d.key), "third-disk", "*"))
	if err != nil || len(keys) == 0 {
		d.t.Errorf("the keys are in %v (%v)", keys, err)
	}
}

// interruptBackup kills a backup at several moments. The next one must not notice.
func (d *drill) interruptBackup() {
	d.t.Helper()
	for range 3 {
		cmd := exec.CommandContext(d.t.Context(), d.binary, "backup", d.backups, "--config", d.Config)
		if err := cmd.Start(); err != nil {
			d.t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // it is killed
			close(ended)
		}()
		for running := true; running; {
			select {
			case <-ended:
				running = false
				continue
			default:
			}
			parts, _ := filepath.Glob(filepath.Join(d.backups, "*.part"))
			all, _ := filepath.Glob(filepath.Join(d.backups, "2*"))
			if len(parts) > 0 || len(all) > 1 {
				break
			}
		}
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		done, _ := filepath.Glob(filepath.Join(d.backups, "2*Z"))
		for _, path := range done[1:] { // it was faster: the file it added must count as new again
			if err := os.RemoveAll(path); err != nil {
				d.t.Fatal(err)
			}
		}
	}
}

// verify checks a backup with the right key, without one and with another one.
func (d *drill) verify(path string) {
	d.t.Helper()
	d.must("backup", "verify", path)
	d.must("backup", "verify", "--identity", d.key, path)
	wrong := d.key + ".wrong"
	newKey(d.t, wrong)
	d.refused(3, "another key", "backup", "verify", "--identity", wrong, path)
	if got, want := d.must("restore", "--show-config", "--identity", d.key, path), "server_name: localhost"; !strings.Contains(got, want) {
		d.t.Errorf("the configuration in the backup is %q", got)
	}
}

// checkDamagedLedger restores once more, with a ledger that has lost its end.
func (d *drill) checkDamagedLedger(path string, bob *process.Client) {
	d.t.Helper()
	if err := d.Stop(); err != nil {
		d.t.Fatal(err)
	}
	raw, err := os.ReadFile(d.ledger)
	if err != nil {
		d.t.Fatal(err)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	if err := os.WriteFile(d.ledger, []byte(strings.Join(lines[:len(lines)-2], "")), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.lose()
	d.refused(3, "the ledger is damaged", "restore", "--identity", d.key, path)
	d.must("restore", "--damaged-ledger", "--identity", d.key, path)
	if found := process.FilesWith(d.t, d.DataDir, "redacted-marker"); len(found) > 0 {
		d.t.Errorf("what the rest of the ledger records has come back in %v", found)
	}
	if err := os.WriteFile(d.ledger, raw, 0o600); err != nil { // so that the server can go on writing it
		d.t.Fatal(err)
	}
	d.Up(d.t)
	code, answer := status(d.t, bob, "GET", "/_matrix/client/v3/account/whoami", nil)
	if soft, _ := answer["soft_logout"].(bool); code != 401 || !soft {
		d.t.Errorf("a session gets %d %v, want a soft logout", code, answer)
	}
	if code, _ := login(d.t, d.Server, "bob", "a password of bob"); code != 200 {
		d.t.Errorf("signing in again gives %d", code)
	}
}

func setPassword(t *testing.T, c *process.Client, from, to string) {
	t.Helper()
	c.Must(t, "POST", "/_matrix/client/v3/account/password", process.Object{"new_password": to, "logout_devices": false, "auth": process.Object{
		"type": "m.login.password", "password": from, "identifier": process.Object{"type": "m.id.user", "user": c.UserID},
	}})
}

func upload(t *testing.T, c *process.Client, content string) (media string) {
	t.Helper()
	answer := raw(t, c, "POST", "/_matrix/media/v3/upload?filename=x.txt", content)
	var got struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(got.URI, "mxc://")
}

func download(t *testing.T, c *process.Client, media string) string {
	t.Helper()
	return raw(t, c, "GET", "/_matrix/client/v1/media/download/"+media, "")
}

// raw sends a request whose body or response is not JSON.
func raw(t *testing.T, c *process.Client, method, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.Token)
	r.Header.Set("Content-Type", "text/plain")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v", method, path, answer, err)
	}
	return string(answer)
}
