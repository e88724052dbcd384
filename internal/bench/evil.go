package main

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/rooms/pdu"
)

// evilServer is another server, which is not in any room. It serves only its keys.
type evilServer struct {
	name   string
	signer pdu.Signer
	roots  *x509.CertPool
	client *fedclient.Client // sends correctly signed requests
	http   *http.Client
	server *http.Server
}

func newEvilServer(cert, key []byte) (*evilServer, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	e := &evilServer{name: l.Addr().String(), roots: x509.NewCertPool()}
	e.roots.AppendCertsFromPEM(cert)
	e.signer = pdu.Signer{Server: e.name, KeyID: "ed25519:evil", Key: private}
	e.client = fedclient.New(fedclient.Options{Server: e.name, Signer: e.signer, Roots: e.roots, AllowPrivate: true})
	e.http = &http.Client{Timeout: requestTimeout, Transport: &http.Transport{TLSClientConfig: e.tls(), MaxIdleConnsPerHost: 64}}
	e.server = &http.Server{Handler: http.HandlerFunc(e.answer), ReadHeaderTimeout: requestTimeout}
	go func() { _ = e.server.Serve(l) }() // ends when the server is closed
	return e, nil
}

func (e *evilServer) close() {
	e.client.Close()
	e.http.CloseIdleConnections()
	_ = e.server.Close()
}

func (e *evilServer) tls() *tls.Config {
	return &tls.Config{RootCAs: e.roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

func (e *evilServer) answer(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/_matrix/key/v2/server") {
		http.Error(w, `{"errcode":"M_NOT_FOUND","error":""}`, http.StatusNotFound)
		return
	}
	public, _ := e.signer.Key.Public().(ed25519.PublicKey)
	raw, err := json.Marshal(map[string]any{
		"server_name": e.name, "valid_until_ts": time.Now().Add(24 * time.Hour).UnixMilli(), "old_verify_keys": map[string]any{},
		"verify_keys": map[string]any{string(e.signer.KeyID): map[string]string{"key": base64.RawStdEncoding.EncodeToString(public)}},
	})
	if err == nil {
		raw, err = pdu.SignJSON(raw, e.signer)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(raw) // the peer may have disconnected
}

// user returns the ID of a user on the evil server.
func (e *evilServer) user(name string) id.UserID { return id.UserID("@" + name + ":" + e.name) }

// forge returns an event in any room, signed by the evil server.
func (e *evilServer) forge(p pdu.Proto) (*pdu.Event, error) {
	v, _ := pdu.VersionOf(id.RoomV11)
	p.OriginServerTS, p.Depth = time.Now().UnixMilli(), 100
	return pdu.Build(v, p, e.signer)
}

func (t *target) strangeEvents(ctx context.Context) error {
	big := strings.Repeat("x", 55_000)
	return repeat(ctx, 8, func(i int) error {
		var events []json.RawMessage
		for range 50 {
			e, err := t.evil.forge(pdu.Proto{
				RoomID: id.RoomID(t.room), Type: "m.room.message", Sender: t.evil.user("x"), Content: json.RawMessage(fmt.Sprintf(`{"n":%d,"body":%q}`, txns.Add(1), big)),
				PrevEvents: []id.EventID{id.EventID("$" + rand.Text())}, AuthEvents: []id.EventID{id.EventID("$" + rand.Text())},
			})
			if err != nil {
				return err
			}
			events = append(events, e.JSON())
		}
		_, err := t.evil.client.SendTransaction(ctx, t.name, fmt.Sprint("e", i, txns.Add(1)), events, nil)
		return err
	})
}

func (t *target) invites(ctx context.Context) error {
	key := t.innocent.user
	shown := []json.RawMessage{}
	for n := range 8 {
		shown = append(shown, json.RawMessage(fmt.Sprintf(`{"type":"x.%d","state_key":"","sender":"@x:%s","content":{"x":%q}}`, n, t.evil.name, strings.Repeat("x", 60_000))))
	}
	return repeat(ctx, 8, func(int) error {
		room := id.RoomID("!" + rand.Text() + ":" + t.evil.name)
		invite, err := t.evil.forge(pdu.Proto{
			RoomID: room, Type: "m.room.member", StateKey: &key, Sender: t.evil.user(strings.ToLower(rand.Text())), Content: json.RawMessage(`{"membership":"invite"}`),
			PrevEvents: []id.EventID{"$a"}, AuthEvents: []id.EventID{"$a"},
		})
		if err != nil {
			return err
		}
		_, err = t.evil.client.Invite(ctx, t.name, id.RoomV11, room, invite.ID(), invite.JSON(), shown)
		return err
	})
}

func (t *target) deviceMessages(ctx context.Context) error {
	return repeat(ctx, 4, func(i int) error {
		var edus []json.RawMessage
		for range 100 {
			edus = append(edus, json.RawMessage(fmt.Sprintf(`{"edu_type":"m.direct_to_device","content":{"sender":%q,"type":"m.x","message_id":%q,"messages":{%q:{"*":{}}}}}`,
				t.evil.user(strings.ToLower(rand.Text())), rand.Text(), t.innocent.user)))
		}
		_, err := t.evil.client.SendTransaction(ctx, t.name, fmt.Sprint("d", i, txns.Add(1)), nil, edus)
		return err
	})
}

// nested returns JSON of the given size that consists of nested objects with unsorted keys.
func nested(size int) []byte {
	var b bytes.Buffer
	depth := size / 16
	for range depth {
		b.WriteString(`{"b":1,"a":`)
	}
	b.WriteString("1" + strings.Repeat("}", depth))
	return b.Bytes()
}

// unsigned sends a body with headers that name the evil server and its key, but with the signature of another text.
func (t *target) unsigned(ctx context.Context, body []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "https://"+t.name+"/_matrix/federation/v1/send/"+rand.Text(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(t.evil.signer.Key, []byte("something else")))
	req.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin=%q,destination=%q,key="%s",sig=%q`, t.evil.name, t.name, t.evil.signer.KeyID, signature))
	resp, err := t.evil.http.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// wide returns JSON of the given size that is nested as deeply as a body may be.
func wide(size int) []byte {
	part := nested(800)
	var b bytes.Buffer
	b.WriteString(`{"pdus":[`)
	for b.Len() < size {
		if b.Len() > 16 {
			b.WriteByte(',')
		}
		b.Write(part)
	}
	return append(b.Bytes(), `]}`...)
}

func (t *target) costlyBodies(ctx context.Context) error {
	bodies := [][]byte{nested(8 << 20), wide(8 << 20)}
	return repeat(ctx, 4, func(i int) error {
		_, err := t.unsigned(ctx, bodies[i%len(bodies)])
		return err
	})
}

// unsignedCost prints the cost of a body of 1 MB with an invalid signature.
func (b *bench) unsignedCost(t *target) error {
	time.Sleep(time.Second) // lets the server finish its earlier work
	const n = 16
	body := nested(1 << 20)
	var mu sync.Mutex
	refused := 0
	s, err := t.measure(func() (int, error) {
		return n, parallel(1, n, func(int) error {
			status, err := t.unsigned(context.Background(), body)
			mu.Lock()
			defer mu.Unlock()
			if status == http.StatusTooManyRequests {
				refused++
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	fmt.Printf("1 MB of a body that nobody has signed: %.1f ms of CPU (aim < 20 ms); %d of %d were refused before they were read\n", s.millis(), refused, n)
	return nil
}

// hugePicture returns a PNG with 36 megapixels in less than a megabyte.
func hugePicture() ([]byte, error) {
	const side = 6000
	var out bytes.Buffer
	out.WriteString("\x89PNG\r\n\x1a\n")
	chunk := func(kind string, data []byte) {
		_ = binary.Write(&out, binary.BigEndian, uint32(len(data))) // writing to a bytes.Buffer cannot fail
		sum := crc32.NewIEEE()
		_, _ = sum.Write(append([]byte(kind), data...))
		out.WriteString(kind)
		out.Write(data)
		_ = binary.Write(&out, binary.BigEndian, sum.Sum32())
	}
	var head bytes.Buffer
	_ = binary.Write(&head, binary.BigEndian, [2]uint32{side, side})
	head.Write([]byte{8, 6, 0, 0, 0})
	chunk("IHDR", head.Bytes())
	var pixels bytes.Buffer
	z := zlib.NewWriter(&pixels)
	row := make([]byte, 1+4*side)
	for range side {
		if _, err := z.Write(row); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	chunk("IDAT", pixels.Bytes())
	chunk("IEND", nil)
	return out.Bytes(), nil
}
