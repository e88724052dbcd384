package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Attackers of three kinds (an unauthenticated client, another server, and a user of the server) attack a server with
// its default limits while an innocent user sends messages. The results are the memory of the server and how long the
// innocent user waits. Somebody else sends as often to the limit, which nobody attacks: what that takes is how long the
// machine lets everybody wait, since the attackers use the same processors and disk.
const (
	attackAim      = "RSS < 400 MB, p99 < 100 ms"
	hiddenEvents   = 8000 // relations that are hidden from the attacker
	largeMessages  = 120  // messages in the room whose history the attacker reads slowly
	innocentPause  = 100 * time.Millisecond
	samplingPause  = 50 * time.Millisecond
	attackedConfig = `server_name: %[1]q
data_dir: .
listen:
  - {address: %[2]q, serve: [client, admin, metrics]}
  - {address: %[1]q, serve: [federation], tls: {certificate: cert.pem, private_key: key.pem}}
federation: {enabled: true, allow_private_addresses: true, trusted_ca_file: cert.pem}
registration: {mode: open}
rate_limits: {enabled: %[3]t}
log: {level: error}
`
)

// target is a server under attack, with its users and rooms.
type target struct {
	*process
	name     string // the server name, which is also the address for federation
	innocent *account
	room     string // the room in which the innocent user sends
	attacker *account
	large    string // a room with large messages
	hidden   string // a room with an event that has many relations that are hidden from the attacker
	root     string // ID of that event
	evil     *evilServer
	limit    *process
}

// attack is a way to use more than a fair share of resources. It continues until its context ends.
type attack struct {
	name string
	run  func(*target, context.Context) error
}

var attacks = []attack{
	{"nothing", (*target).nothing},
	{"unsigned bodies that are costly to canonicalise", (*target).costlyBodies},
	{"1,500 connections that hold back 1 MB each", (*target).heldBodies},
	{"40 key backups of 14 MB that are never finished", (*target).heldBackups},
	{"60 slow readers of history", (*target).slowReaders},
	{"events of a server in no room", (*target).strangeEvents},
	{"invites of 500 KB", (*target).invites},
	{"messages to a device", (*target).deviceMessages},
	{"ten readers of hidden relations", (*target).hiddenReads},
	{"guesses at a password", (*target).guesses},
	{"profiles and keys of servers that there are not", (*target).lookups},
	{"thumbnails of large pictures", (*target).pictures},
}

// attackAll runs the attacks one after the other.
func (b *bench) attackAll() error {
	t, err := b.startTarget()
	if err != nil {
		return err
	}
	defer t.stop()
	defer t.evil.close()
	if t.limit, err = b.startLimit(0); err != nil {
		return err
	}
	defer t.limit.kill()
	fmt.Printf("%-52s %10s %10s %10s %10s %10s %8s  %s\n", "attack", "RSS peak", "send p50", "send p99", "limit p99", "CPU s", "failed", attackAim)
	for _, a := range attacks {
		if err := b.play(t, a); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return b.unsignedCost(t)
}

// play runs an attack and prints its effect on the server and its other users.
func (b *bench) play(t *target, a attack) error {
	before, err := t.used()
	if err != nil {
		return err
	}
	ctx, end := context.WithTimeout(context.Background(), b.duration)
	defer end()
	attacked := make(chan error, 1)
	go func() { attacked <- a.run(t, ctx) }()
	w := t.watch(ctx)
	if err := <-attacked; err != nil && ctx.Err() == nil {
		return err
	}
	after, err := t.used()
	fmt.Printf("%-52s %7.0f MB %7.1f ms %7.1f ms %7.1f ms %10.2f %8d\n", a.name, float64(w.peak)/1e6, percentile(w.waits, 0.5), percentile(w.waits, 0.99),
		percentile(w.limits, 0.99), (after.cpu - before.cpu).Seconds(), w.failed)
	return err
}

// watched is what others notice of an attack.
type watched struct {
	waits  []float64 // how long each message of the innocent user took, in ms
	failed int       // how many of them failed
	limits []float64 // how long each message to the limit took, in ms
	peak   int64     // the memory of the server and its children
}

// watch sends messages as the innocent user, and to the limit, until ctx ends.
func (t *target) watch(ctx context.Context) (w watched) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if u, err := t.used(); err == nil {
				w.peak = max(w.peak, u.rss+u.helpers)
			}
			time.Sleep(samplingPause)
		}
	})
	wg.Go(func() {
		c := newConn(t.limit.addr, "")
		defer c.close()
		w.limits, _ = timed(ctx, func() error { _, err := c.do("PUT", "/all/", message); return err })
	})
	w.waits, w.failed = timed(ctx, func() error { return t.innocent.send(t.room) })
	wg.Wait()
	return w
}

// timed calls send every innocentPause until ctx ends. It returns how long each call took in ms, and how many failed.
func timed(ctx context.Context, send func() error) (waits []float64, failed int) {
	for ctx.Err() == nil {
		start := time.Now()
		if err := send(); err != nil {
			failed++
		}
		waits = append(waits, float64(time.Since(start).Microseconds())/1000)
		time.Sleep(innocentPause)
	}
	return waits, failed
}

// startTarget creates the server that will be attacked. It fills the server with users and rooms while the rate limits
// are off, and restarts it with the default limits.
func (b *bench) startTarget() (*target, error) {
	cert, key, err := certificate()
	if err != nil {
		return nil, err
	}
	t := &target{process: &process{dir: filepath.Join(b.dir, "attacked"), binary: b.binary}}
	if t.name, err = freeAddress(); err != nil {
		return nil, err
	}
	if t.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := t.initialise(t.name); err != nil {
		return nil, err
	}
	for file, content := range map[string][]byte{"cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(t.dir, file), content, 0o600); err != nil {
			return nil, err
		}
	}
	if err := t.restart(false); err != nil {
		return nil, err
	}
	if err := t.fill(); err != nil {
		t.stop()
		return nil, err
	}
	t.stop()
	if t.evil, err = newEvilServer(cert, key); err != nil {
		return nil, err
	}
	return t, t.restart(true)
}

// restart restarts the server, with the default limits or without any.
func (t *target) restart(limits bool) error {
	if err := os.WriteFile(t.config(), fmt.Appendf(nil, attackedConfig, t.name, t.addr, limits), 0o600); err != nil {
		return err
	}
	_, err := t.serve(0)
	return err
}

func (t *target) fill() error {
	people, err := t.register("attack", 3)
	if err != nil {
		return err
	}
	t.innocent, t.attacker = people[0], people[1]
	author := people[2]
	for _, room := range []*string{&t.room, &t.large, &t.hidden} {
		if *room, err = author.createRoom(); err != nil {
			return err
		}
		if err := errors.Join(t.innocent.join(*room), t.attacker.join(*room)); err != nil {
			return err
		}
	}
	large := fmt.Appendf(nil, `{"msgtype":"m.text","body":%q}`, bytes.Repeat([]byte("x"), 60_000))
	for range largeMessages {
		if _, err := author.do("PUT", sendPath(t.large), large); err != nil {
			return err
		}
	}
	answer, err := author.do("PUT", sendPath(t.hidden), message)
	if err != nil {
		return err
	}
	t.root = string(bytes.Split(answer, []byte(`"`))[3])
	reply := fmt.Appendf(nil, `{"msgtype":"m.text","body":"x","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, t.root)
	if err := parallel(1, hiddenEvents, func(int) error { _, err := author.do("PUT", sendPath(t.hidden), reply); return err }); err != nil {
		return err
	}
	ignored := fmt.Appendf(nil, `{"ignored_users":{%q:{}}}`, author.user)
	_, err = t.attacker.do("PUT", "/_matrix/client/v3/user/"+url.PathEscape(t.attacker.user)+"/account_data/m.ignored_user_list", ignored)
	return err
}

// repeat calls f from n goroutines until ctx ends. It ignores refused requests, which are expected.
func repeat(ctx context.Context, n int, f func(i int) error) error {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				if f(i) != nil && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (t *target) nothing(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// raw opens a connection to the client address, or with TLS to the federation address, and sends text.
func (t *target) raw(ctx context.Context, federation bool, text []byte) (net.Conn, error) {
	address := t.addr
	if federation {
		address = t.name
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if federation {
		c = tls.Client(c, t.evil.tls())
	}
	_, err = c.Write(text)
	return c, err
}

// hold opens n connections, each of which sends text and then nothing until ctx ends.
func (t *target) hold(ctx context.Context, n int, federation bool, text []byte) error {
	var mu sync.Mutex
	var open []net.Conn
	_ = parallel(50, n, func(int) error {
		if ctx.Err() != nil {
			return nil
		}
		if c, err := t.raw(ctx, federation, text); err == nil { // the server may refuse the connection
			mu.Lock()
			defer mu.Unlock()
			open = append(open, c)
		}
		return nil
	})
	<-ctx.Done()
	for _, c := range open {
		_ = c.Close()
	}
	return nil
}

// unfinished returns the beginning of a request whose body never ends.
func unfinished(method, path, token string, size int) []byte {
	head := method + " " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(size+1000) + "\r\n"
	if token != "" {
		head += "Authorization: Bearer " + token + "\r\n"
	}
	return append([]byte(head+"\r\n"), bytes.Repeat([]byte(" "), size)...)
}

func (t *target) heldBodies(ctx context.Context) error {
	return t.hold(ctx, 1500, true, unfinished("POST", "/_matrix/key/v2/query", "", 1<<20-2000))
}

func (t *target) heldBackups(ctx context.Context) error {
	return t.hold(ctx, 40, false, unfinished("PUT", "/_matrix/client/v3/room_keys/keys?version=1", t.attacker.token, 14<<20))
}

func (t *target) slowReaders(ctx context.Context) error {
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(t.large) + "/messages?dir=b&limit=1000"
	return t.hold(ctx, 60, false, []byte("GET "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+t.attacker.token+"\r\n\r\n"))
}

func (t *target) hiddenReads(ctx context.Context) error {
	path := "/_matrix/client/v1/rooms/" + url.PathEscape(t.hidden) + "/relations/" + url.PathEscape(t.root) + "?limit=1&recurse=true"
	return repeat(ctx, 10, func(int) error {
		c := newConn(t.addr, t.attacker.token)
		defer c.close()
		_, err := c.do("GET", path, nil)
		return err
	})
}

func (t *target) guesses(ctx context.Context) error {
	body := fmt.Appendf(nil, `{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":"guess"}`, t.innocent.user)
	return repeat(ctx, 16, func(int) error {
		c := newConn(t.addr, "")
		defer c.close()
		_, err := c.do("POST", "/_matrix/client/v3/login", body)
		return err
	})
}

func (t *target) lookups(ctx context.Context) error {
	return repeat(ctx, 16, func(i int) error {
		c := newConn(t.addr, "")
		defer c.close()
		server := fmt.Sprintf("127.0.0.1:%d", 1+(i*7919+int(txns.Add(1)))%1000)
		_, err := c.do("GET", "/_matrix/client/v3/profile/"+url.PathEscape("@x:"+server), nil)
		_, err2 := t.get(ctx, "/_matrix/key/v2/query/"+url.PathEscape(server))
		return errors.Join(err, err2)
	})
}

// get sends a request to the federation address.
func (t *target) get(ctx context.Context, path string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+t.name+path, nil)
	if err != nil {
		return 0, err
	}
	resp, err := t.evil.http.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

func (t *target) pictures(ctx context.Context) error {
	picture, err := hugePicture()
	if err != nil {
		return err
	}
	var media []string
	for range 4 {
		answer, err := t.upload(ctx, picture)
		if err != nil {
			return err
		}
		media = append(media, answer)
	}
	return repeat(ctx, 8, func(i int) error {
		c := newConn(t.addr, t.attacker.token)
		defer c.close()
		size := 32 + int(txns.Add(1))%700
		_, err := c.do("GET", fmt.Sprintf("/_matrix/client/v1/media/thumbnail/%s?width=%d&height=%d", media[i%len(media)], size, size), nil)
		return err
	})
}

// upload uploads a picture and returns its server name and media ID as a path.
func (t *target) upload(ctx context.Context, picture []byte) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.addr+"/_matrix/media/v3/upload", bytes.NewReader(picture))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+t.attacker.token)
	req.Header.Set("Content-Type", "image/png")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	raw, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	parts := bytes.Split(raw, []byte(`"mxc://`))
	if len(parts) != 2 {
		return "", fmt.Errorf("upload: %d %s", resp.StatusCode, raw)
	}
	return string(bytes.Split(parts[1], []byte(`"`))[0]), nil
}
