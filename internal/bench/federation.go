package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	missedEvents = 5000 // messages sent while the other server is down
	federatedFor = 200  // messages whose latency to a client of the other server is measured
)

// federatedConfiguration is the configuration of a server that federates over TLS. Its server name is its address.
const federatedConfiguration = `server_name: %[1]q
data_dir: .
listen:
  - {address: %[2]q, serve: [client, admin, metrics]}
  - {address: %[1]q, serve: [federation], tls: {certificate: cert.pem, private_key: key.pem}}
federation: {enabled: true, allow_private_addresses: true, trusted_ca_file: cert.pem}
registration: {mode: open}
rate_limits: {enabled: false}
log: {level: error}
`

// pair is two servers that share a room.
type pair struct {
	here, there *process
	name        string // the name of the first server
	senders     []*account
	reader      *account // a user of the second server
}

// federation measures the latency and throughput between two servers.
func (b *bench) federation() error {
	w, err := b.startPair()
	if err != nil {
		return err
	}
	defer w.here.stop()
	defer w.there.stop()
	room, err := w.share()
	if err != nil {
		return err
	}
	if err := b.federatedSends(w, room); err != nil {
		return err
	}
	if err := b.federatedWay(w, room); err != nil {
		return err
	}
	if err := b.catchUp(w, room); err != nil {
		return err
	}
	return b.joins(w)
}

func (b *bench) startPair() (*pair, error) {
	cert, key, err := certificate()
	if err != nil {
		return nil, err
	}
	w := &pair{}
	if w.here, w.name, err = b.startFederated("here", cert, key); err != nil {
		return nil, err
	}
	if w.there, _, err = b.startFederated("there", cert, key); err != nil {
		w.here.stop()
		return nil, err
	}
	if w.senders, err = w.here.register("f", 16); err != nil {
		return nil, err
	}
	readers, err := w.there.register("r", 1)
	if err == nil {
		w.reader = readers[0]
	}
	return w, err
}

// startFederated is like startEbb, for a server that federates.
func (b *bench) startFederated(folder string, cert, key []byte) (*process, string, error) {
	p := &process{dir: filepath.Join(b.dir, folder), binary: b.binary}
	name, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	if p.addr, err = freeAddress(); err != nil {
		return nil, "", err
	}
	if err := p.initialise(name); err != nil {
		return nil, "", err
	}
	for file, content := range map[string][]byte{
		"ebb.yaml": fmt.Appendf(nil, federatedConfiguration, name, p.addr), "cert.pem": cert, "key.pem": key,
	} {
		if err := os.WriteFile(filepath.Join(p.dir, file), content, 0o600); err != nil {
			return nil, "", err
		}
	}
	_, err = p.serve(0)
	return p, name, err
}

// certificate returns a self-signed certificate for the loopback address.
func certificate() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	block := func(typ string, raw []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: raw}) }
	return block("CERTIFICATE", raw), block("PRIVATE KEY", encoded), err
}

// share creates a room and joins all users to it.
func (w *pair) share() (string, error) {
	room, err := w.senders[0].createRoom()
	if err != nil {
		return "", err
	}
	for _, a := range w.senders[1:] {
		if err := a.join(room); err != nil {
			return "", err
		}
	}
	return room, w.joinThere(room)
}

func (w *pair) joinThere(room string) error {
	return w.reader.post("/_matrix/client/v3/join/"+url.PathEscape(room)+"?via="+url.QueryEscape(w.name), nil, nil)
}

// mark sends one more message and waits until the other server has received it. All earlier messages have arrived by
// then.
func (w *pair) mark(room string) error {
	answer, err := w.senders[0].do("PUT", sendPath(room), message)
	if err != nil {
		return err
	}
	var sent struct {
		EventID string `json:"event_id"`
	}
	if err := json.Unmarshal(answer, &sent); err != nil {
		return err
	}
	return w.arrived(room, sent.EventID)
}

func (w *pair) arrived(room, eventID string) error {
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/event/" + url.PathEscape(eventID)
	for start := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		if _, err := w.reader.do("GET", path, nil); err == nil {
			return nil
		} else if time.Since(start) > requestTimeout {
			return err
		}
	}
}

// federatedSends measures the rate at which messages arrive, and the cost on both servers.
func (b *bench) federatedSends(w *pair, room string) error {
	var here, there samples
	for range b.rounds {
		var got spent
		one, err := w.here.measure(func() (n int, err error) {
			got, err = w.there.measure(func() (int, error) {
				n, err = concurrently(len(w.senders), b.duration, func(i, _ int) error { return w.senders[i].send(room) })
				return n, errors.Join(err, w.mark(room))
			})
			return n, err
		})
		if err != nil {
			return err
		}
		here, there = append(here, one), append(there, got)
	}
	b.print(
		figure{"federated sends, one room, 16 senders: arrived", "events/s", there.of(spent.perSecond), nil, "≥ 1000"},
		figure{"federated sends, the sending server", "CPU s/1000", here.of(spent.per1000), nil, ""},
		figure{"federated sends, the receiving server", "CPU s/1000", there.of(spent.per1000), nil, ""},
	)
	return nil
}

// federatedWay measures how long a message takes from a client of one server to a waiting client of the other.
func (b *bench) federatedWay(w *pair, room string) error {
	since, err := w.reader.settled("")
	if err != nil {
		return err
	}
	var ways []float64
	for range federatedFor {
		start := time.Now()
		if err := w.senders[0].send(room); err != nil {
			return err
		}
		for seen := false; !seen; {
			var answer []byte
			if since, answer, err = w.reader.sync(since, 10_000); err != nil {
				return err
			}
			seen = bytes.Contains(answer, []byte(`"m.room.message"`))
		}
		ways = append(ways, time.Since(start).Seconds()*1000)
		time.Sleep(time.Second / rate)
	}
	b.print(
		figure{"message to a client of the other server, p50", "ms", []float64{percentile(ways, 0.5)}, nil, "< 15"},
		figure{"message to a client of the other server, p99", "ms", []float64{percentile(ways, 0.99)}, nil, ""},
	)
	return nil
}

// catchUp measures how long a server that was down takes to receive the messages that it missed.
func (b *bench) catchUp(w *pair, room string) error {
	w.there.stop()
	if err := shared(missedEvents, func(worker, _ int) error { return w.senders[worker].send(room) }); err != nil {
		return err
	}
	if _, err := w.there.serve(0); err != nil {
		return err
	}
	one, err := w.there.measure(func() (int, error) { return missedEvents, w.mark(room) })
	if err != nil {
		return err
	}
	b.print(
		figure{"catching up on " + strconv.Itoa(missedEvents) + " events", "s", []float64{one.wall.Seconds()}, nil, "< 10"},
		figure{"catching up, the server that was down", "CPU s/1000", []float64{one.per1000()}, nil, ""},
	)
	return nil
}

// workers is the number of goroutines that send large numbers of messages.
const workers = 16

// shared calls f for 0 to n-1, divided among the workers.
func shared(n int, f func(worker, i int) error) error {
	return parallel(workers, workers, func(worker int) error {
		for i := worker; i < n; i += workers {
			if err := f(worker, i); err != nil {
				return err
			}
		}
		return nil
	})
}

// joins measures how long it takes to join rooms with many members, until the first /sync response that contains the
// room. It does so for a client that lazy-loads members and for one that wants all of them. Most members are banned
// users, who need no accounts but as many events.
func (b *bench) joins(w *pair) error {
	for _, n := range []int{1000, 10_000} {
		room, err := w.crowded(n)
		if err != nil {
			return err
		}
		since, err := w.reader.settled("")
		if err != nil {
			return err
		}
		var lazy, whole float64
		start := time.Now()
		if err := w.joinThere(room); err != nil {
			return err
		}
		for _, until := range []struct {
			filter string
			took   *float64
		}{{lazyFilter, &lazy}, {`{}`, &whole}} {
			if err := w.untilThere(room, since, until.filter); err != nil {
				return err
			}
			*until.took = time.Since(start).Seconds()
		}
		b.print(
			figure{fmt.Sprintf("join of a room with %d members, to its first /sync", n), "s", []float64{lazy}, nil, map[int]string{1000: "< 1", 10_000: "< 5"}[n]},
			figure{"  to its first /sync with all members", "s", []float64{whole}, nil, map[int]string{1000: "< 1", 10_000: "< 5"}[n]},
		)
	}
	return nil
}

// crowded creates a room with n additional members.
func (w *pair) crowded(n int) (room string, err error) {
	if room, err = w.senders[0].createRoom(); err != nil {
		return "", err
	}
	return room, crowd(w.senders[0], room, w.name, 0, n)
}

// crowd bans the users @crowdN for each N with first ≤ N < end from a room. Their membership events need no accounts.
func crowd(a *account, room, server string, first, end int) error {
	conns := make([]*conn, workers)
	for i := range conns {
		conns[i] = newConn(a.addr, a.token)
		defer conns[i].close()
	}
	return shared(end-first, func(worker, i int) error {
		user := fmt.Sprintf("@crowd%d:%s", first+i, server)
		_, err := conns[worker].do("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/state/m.room.member/"+url.PathEscape(user), []byte(`{"membership":"ban"}`))
		return err
	})
}

// untilThere syncs with a filter until a response contains the room.
func (w *pair) untilThere(room, since, filter string) error {
	for {
		query := url.Values{"since": {since}, "filter": {filter}, "timeout": {"10000"}}
		answer, err := w.reader.do("GET", "/_matrix/client/v3/sync?"+query.Encode(), nil)
		if err != nil || bytes.Contains(answer, []byte(room)) {
			return err
		}
		next, found := nextBatch(answer)
		if !found {
			return fmt.Errorf("no next_batch in %.200s", answer)
		}
		since = next
	}
}
