package fedclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
)

// storyteller starts servers that answer every request with a function that the test sets.
func storyteller(t *testing.T, servers ...string) (c *Client, answer *func(w io.Writer, r *http.Request)) {
	l := newLab(t)
	answer = new(func(io.Writer, *http.Request))
	for i, server := range servers {
		address := fmt.Sprintf("8.8.2.%d", i+1)
		l.ips[server] = []string{address}
		l.serve(address+":8448", server, func(w http.ResponseWriter, r *http.Request) { (*answer)(w, r) })
	}
	return l.client("me.test", nil), answer
}

// writeMembers writes a list of n member events like those of a large room.
func writeMembers(w io.Writer, n int) {
	long := strings.Repeat("x", 43)
	before := `{"auth_events":["$` + long + `","$` + long + `","$` + long + `"],"content":{"avatar_url":"mxc://server.example.org/abcdefghijklmnopqrstuvwx","displayname":"A user of this room","membership":"join"},"depth":12345,"hashes":{"sha256":"` + long + `"},"origin_server_ts":1750000000000,"prev_events":["$` + long + `"],"room_id":"!` + long + `","sender":"@user`
	after := `:server.example.org","signatures":{"server.example.org":{"ed25519:a_abcd":"` + long + long + `"}},"state_key":"@user12345:server.example.org","type":"m.room.member"}`
	b := []byte{'['}
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(append(b, before...), int64(i), 10), after...)
		if len(b) > 1<<20 {
			if _, err := w.Write(b); err != nil {
				return
			}
			b = b[:0]
		}
	}
	_, _ = w.Write(append(b, ']'))
}

func (a *answers) counted() (bytes int64, servers int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes, len(a.servers)
}

func anything(json.RawMessage) bool { return true }

// The state of a room with 100,000 members fits into the bound for large responses; a state twice as large is refused.
func TestRoomOf100000MembersIsRead(t *testing.T) {
	c, answer := storyteller(t, "a.test")
	members := 100_000
	*answer = func(w io.Writer, _ *http.Request) {
		_, _ = io.WriteString(w, `{"unheard":{"of":[1,{}]},"members_omitted":false,"state":`)
		writeMembers(w, members)
		_, _ = io.WriteString(w, `,"event":{"a":1},"auth_chain":null,"servers_in_room":["b.test",7]}`)
	}
	ctx, release := HoldAnswers(t.Context(), true)
	joined, err := c.SendJoin(ctx, "a.test", "!r", "$e", json.RawMessage(`{}`), true)
	if err != nil || len(joined.State) != members || string(joined.Event) != `{"a":1}` || len(joined.ServersInRoom) != 1 {
		t.Fatalf("%d members, %v", len(joined.State), err)
	}
	if bytes, servers := c.answers.counted(); bytes != 0 || servers != 0 || len(c.answers.large) != 1 {
		t.Errorf("%d bytes of %d servers are counted beside the large answer", bytes, servers)
	}
	release()
	if len(c.answers.large) != 0 {
		t.Error("the turn of large answers is not given back")
	}
	if _, err := c.SendJoin(t.Context(), "a.test", "!r", "$e", json.RawMessage(`{}`), true); !errors.Is(err, ErrBusy) {
		t.Errorf("without leave to be large: %v", err)
	}
	members *= 3
	ctx, release = HoldAnswers(t.Context(), true)
	defer release()
	if _, err := c.SendJoin(ctx, "a.test", "!r", "$e", json.RawMessage(`{}`), true); !errors.Is(err, errTooLarge) {
		t.Errorf("%d members: %v", members, err)
	}
}

// Only the wanted events of a state are held, so that a small difference in a large room costs little.
func TestOnlyWantedEventsOfLargeStateAreHeld(t *testing.T) {
	c, answer := storyteller(t, "a.test")
	*answer = func(w io.Writer, _ *http.Request) {
		_, _ = io.WriteString(w, `{"pdus":`)
		writeMembers(w, 60_000)
		_, _ = io.WriteString(w, `,"auth_chain":`)
		writeMembers(w, 10)
		_, _ = io.WriteString(w, `}`)
	}
	wanted := func(raw json.RawMessage) bool { return bytes.Contains(raw, []byte(`"@user7:`)) }
	state, chain, err := c.State(t.Context(), "a.test", "!r", "$e", wanted)
	if err != nil || len(state) != 1 || len(chain) != 1 {
		t.Errorf("%d and %d events, %v", len(state), len(chain), err)
	}
}

// endless writes text until the reader closes the connection.
func endless(text string) func(io.Writer, *http.Request) {
	many := []byte(strings.Repeat(text, 64<<10/len(text)))
	return func(w io.Writer, _ *http.Request) {
		for {
			if _, err := w.Write(many); err != nil {
				return
			}
		}
	}
}

func TestAnswersOfOneServerAndOfAllAreBoundedInBytes(t *testing.T) {
	servers := []string{"a.test", "b.test", "c.test", "d.test", "small.test"}
	c, answer := storyteller(t, servers...)
	*answer = func(w io.Writer, r *http.Request) {
		if r.Host == "small.test" {
			_, _ = io.WriteString(w, `{"room_id":"!r","servers":["a.test"]}`)
			return
		}
		_, _ = io.WriteString(w, `{"auth_chain":[0`)
		endless(`,{"content":{"x":"`+strings.Repeat("y", 1000)+`"}}`)(w, r)
	}
	var releases []func()
	for i, server := range servers[:4] {
		ctx, release := HoldAnswers(t.Context(), false)
		releases = append(releases, release)
		chain, err := c.EventAuth(ctx, server, "!r", "$e")
		if !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v", server, err)
		}
		all, _ := c.answers.counted()
		if own := c.answers.servers[server]; own > maxAnswersServer || all > maxAnswers || i < 3 && own < maxAnswersServer/2 {
			t.Errorf("%s: %d bytes of %d are held, %d events", server, own, all, len(chain))
		}
	}
	if room, _, err := c.QueryDirectory(t.Context(), "small.test", "#a:small.test"); err != nil || room != "!r" {
		t.Errorf("small answers are not read meanwhile: %v", err)
	}
	if mxerr.Code(Relay(fmt.Errorf("x: %w", ErrBusy))) != mxerr.CodeLimitExceeded {
		t.Error("clients are not told to wait")
	}
	for _, release := range releases {
		release()
		release()
	}
	if all, n := c.answers.counted(); all != 0 || n != 0 {
		t.Errorf("%d bytes of %d servers are held in the end", all, n)
	}
}

func TestAnswersReadConcurrentlyAreBoundedInBytes(t *testing.T) {
	c, answer := storyteller(t, "a.test")
	var most int64
	*answer = func(w io.Writer, r *http.Request) {
		_, _ = io.WriteString(w, `{"device_keys":"`)
		endless("x")(w, r)
	}
	done := make(chan error)
	for range 8 {
		go func() {
			_, err := c.QueryDeviceKeys(t.Context(), "a.test", map[id.UserID][]id.DeviceID{})
			done <- err
		}()
	}
	busy := 0
	for range 8 {
		if errors.Is(<-done, ErrBusy) {
			busy++
		}
		all, _ := c.answers.counted()
		most = max(most, all)
	}
	if all, n := c.answers.counted(); all != 0 || n != 0 || most > maxAnswersServer {
		t.Errorf("%d bytes of %d servers are held, at most %d", all, n, most)
	}
	if busy == 0 {
		t.Error("eight answers of 16 MiB of one server were read at once")
	}
}

func TestLargeAnswersTakeTurns(t *testing.T) {
	c := New(Options{Server: "me.test"})
	one, release := HoldAnswers(t.Context(), true)
	h := one.Value(holdKey{}).(*hold)
	if err := c.answers.hold(one, h, "a.test", maxAnswersServer+1); err != nil {
		t.Fatal(err)
	}
	other, releaseOther := HoldAnswers(t.Context(), true)
	defer releaseOther()
	hurried, cancel := context.WithTimeout(other, time.Millisecond)
	defer cancel()
	next := other.Value(holdKey{}).(*hold)
	if err := c.answers.hold(hurried, next, "b.test", maxAnswersServer+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one: %v", err)
	}
	release()
	if err := c.answers.hold(other, next, "b.test", maxAnswersServer+1); err != nil {
		t.Errorf("after the first one: %v", err)
	}
	if nested, _ := HoldAnswers(other, false); nested != other {
		t.Error("work within work holds for itself")
	}
}

func TestMalformedPiecewiseAnswersAreRefused(t *testing.T) {
	c, answer := storyteller(t, "a.test")
	text := func(s string) func(io.Writer, *http.Request) {
		return func(w io.Writer, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	after := func(start string, rest func(io.Writer, *http.Request)) func(io.Writer, *http.Request) {
		return func(w io.Writer, r *http.Request) { _, _ = io.WriteString(w, start); rest(w, r) }
	}
	for name, a := range map[string]func(io.Writer, *http.Request){
		"nothing": text(""), "a list": text(`[]`), "a text": text(`"x"`), "cut off": text(`{"pdus":[{}`), "cut off between": text(`{"pdus":[]`),
		"no list": text(`{"pdus":{}}`), "a page": text(`<html>`), "no value": text(`{"pdus":}`), "no comma": text(`{"pdus":[{} {}]}`),
		"an event without end": after(`{"pdus":[{"x":"`, endless("x")), "a key without end": after(`{"`, endless("x")),
		"a member without end": after(`{"x":"`, endless("x")), "spaces without end": after(`{"pdus":[`, endless(" ")),
		"spaces before": endless(" "), "a number without end": after(`{"x":`, endless("1")), "members without end": after(`{"a":0`, endless(`,"x":[]`)), "nesting without end": after(`{"x":[`, endless("[")),
		"elements without end": after(`{"pdus":[0`, endless(",0")),
	} {
		*answer = a
		if state, _, err := c.State(t.Context(), "a.test", "!r", "$e", func(json.RawMessage) bool { return false }); err == nil || len(state) != 0 {
			t.Errorf("%s: %d events, %v", name, len(state), err)
		}
	}
	*answer = text(`{"x":[{"y":[null]}],"pdus":[{"a":[]},3],"z":1,"auth_chain":null}`)
	if state, chain, err := c.State(t.Context(), "a.test", "!r", "$e", anything); err != nil || len(state) != 2 || string(state[0]) != `{"a":[]}` || len(chain) != 0 {
		t.Errorf("%s %s %v", state, chain, err)
	}
	*answer = text(`{"pdu_ids":["$a",7,"$b","` + strings.Repeat("x", 300) + `"],"auth_chain_ids":["$c"]}`)
	if state, chain, err := c.StateIDs(t.Context(), "a.test", "!r", "$e"); err != nil || fmt.Sprint(state, chain) != "[$a $b] [$c]" {
		t.Errorf("%s %s %v", state, chain, err)
	}
}
