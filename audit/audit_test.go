package audit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebb/secrets"
	"ebb/storage"
	"ebb/storage/storagetest"
)

var ctx = context.Background()

// lab is a log on a database.
type lab struct {
	*Log
	t   *testing.T
	db  *storage.DB
	dsn string
	ms  atomic.Int64
}

func each(t *testing.T, o Options, f func(t *testing.T, l *lab)) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		l := &lab{t: t, dsn: dsn}
		l.ms.Store(1_750_000_000_000)
		o := o
		o.Now = func() time.Time { return time.UnixMilli(l.ms.Load()) }
		l.db = storagetest.Open(t, storage.Config{DSN: dsn, Now: o.Now})
		ring, err := secrets.Create(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		o.DB, o.Server, o.Secrets = l.db, "example.org", ring
		l.Log = New(o)
		f(t, l)
	})
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) record(n int) {
	l.t.Helper()
	for i := range n {
		l.must(l.Record(WithActor(ctx, "command line"), "user locked", "user", fmt.Sprintf("@u%d:example.org", i), "network", "192.0.2.1"))
	}
}

// rows returns the log, as a program that only reads the database finds it.
func (l *lab) rows() (rows []storage.AuditRow, key string) {
	l.t.Helper()
	key, err := storage.PeekAudit(ctx, l.dsn, func(a storage.AuditRow) error { rows = append(rows, a); return nil })
	l.must(err)
	return rows, key
}

// verify checks rows against checkpoints.
func verify(rows []storage.AuditRow, checkpoints ...Checkpoint) error {
	v, err := NewVerifier(checkpoints)
	if err != nil {
		return err
	}
	for _, a := range rows {
		if err := v.Row(a); err != nil {
			return err
		}
	}
	_, err = v.End()
	return err
}

// again computes the chain anew from a row on, as somebody can who holds the database.
func again(rows []storage.AuditRow, from int) {
	for i := from; i < len(rows); i++ {
		previous := ""
		if i > 0 {
			previous = rows[i-1].Hash
		}
		rows[i].Seq, rows[i].BodyHash = int64(i+1), bodyHash(rows[i])
		rows[i].Hash = chainHash(previous, rows[i])
	}
}

func TestEveryChangeOfARowIsFoundAndTheFirstOneNamed(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *lab) {
		l.record(5)
		good, _ := l.rows()
		last := good[len(good)-1]
		head := Checkpoint{RecordRef: RecordRef{last.Seq, last.Hash}}
		if err := verify(good, head); err != nil || len(good) != 5 || !strings.Contains(good[0].Body, `"actor":"command line"`) {
			t.Fatalf("%v: %+v", err, good)
		}
		for name, c := range map[string]struct {
			change func([]storage.AuditRow) []storage.AuditRow
			want   string
		}{
			"body":         {func(r []storage.AuditRow) []storage.AuditRow { r[2].Body = "{}"; return r }, "row 3: its body was changed"},
			"kind":         {func(r []storage.AuditRow) []storage.AuditRow { r[2].Kind = "x"; return r }, "row 3"},
			"time":         {func(r []storage.AuditRow) []storage.AuditRow { r[1].TS++; return r }, "row 2"},
			"hash":         {func(r []storage.AuditRow) []storage.AuditRow { r[3].Hash = r[2].Hash; return r }, "row 4"},
			"removed":      {func(r []storage.AuditRow) []storage.AuditRow { return append(r[:1], r[2:]...) }, "row 2 is missing"},
			"first":        {func(r []storage.AuditRow) []storage.AuditRow { return r[1:] }, "row 1 is missing"},
			"cut off":      {func(r []storage.AuditRow) []storage.AuditRow { return r[:3] }, "row 4 is missing"},
			"body removed": {func(r []storage.AuditRow) []storage.AuditRow { r[4].Body = ""; return r }, "row 5: its body was removed"},
			"computed anew": {func(r []storage.AuditRow) []storage.AuditRow {
				r[1].Body = "{}"
				again(r, 1)
				return r
			}, "row 5: its checkpoint has another hash"},
			"one removed and computed anew": {func(r []storage.AuditRow) []storage.AuditRow {
				r = append(r[:1], r[2:]...)
				again(r, 1)
				return r
			}, "row 5 is missing"},
		} {
			rows := c.change(append([]storage.AuditRow{}, good...))
			if err := verify(rows, head); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
	})
}

func TestBodiesAreRemovedAfterTheirTimeAndHashesStay(t *testing.T) {
	each(t, Options{Keep: 24 * time.Hour}, func(t *testing.T, l *lab) {
		l.record(3)
		before, _ := l.rows()
		head := Checkpoint{RecordRef: RecordRef{3, before[2].Hash}}
		l.ms.Add((25 * time.Hour).Milliseconds())
		l.record(1)
		for range 3 { // what removes bodies is itself recorded, and its record removed later
			l.must(l.Prune(ctx))
			l.ms.Add((25 * time.Hour).Milliseconds())
		}
		rows, _ := l.rows()
		for _, a := range rows[:4] {
			if a.Body != "" || a.Salt != "" {
				t.Errorf("row %d still has %s", a.Seq, a.Body)
			}
		}
		if err := verify(rows, head); err != nil {
			t.Error(err)
		}
	})
}

func TestNetworksAreRemovedBeforeBodiesAndTheChainStaysValid(t *testing.T) {
	each(t, Options{Keep: 72 * time.Hour, Networks: 24 * time.Hour}, func(t *testing.T, l *lab) {
		l.must(l.Record(WithNetwork(ctx, "192.0.2.77"), "signed in", "user", "alice"))
		for range 3 {
			l.Failed(WithNetwork(ctx, "2001:db8:1:2::/64"), "alice", "wrong password")
		}
		l.Failed(ctx, "alice", "wrong password")
		l.must(l.Flush(ctx))
		rows, _ := l.rows()
		if len(rows) != 2 || rows[0].Networks != `{"192.0.2.0/24":1}` || rows[1].Networks != `{"2001:db8:1::/48":3}` || strings.Contains(rows[0].Body, "192.0") {
			t.Fatalf("%+v", rows)
		}
		head := Checkpoint{RecordRef: RecordRef{2, rows[1].Hash}}
		for name, change := range map[string]func(*storage.AuditRow){
			"changed": func(a *storage.AuditRow) { a.Networks = `{"198.51.100.0/24":1}` },
			"removed": func(a *storage.AuditRow) { a.Networks, a.NetworksSalt = "", "" },
		} {
			forged := append([]storage.AuditRow{}, rows...)
			change(&forged[0])
			if err := verify(forged, head); err == nil || !strings.Contains(err.Error(), "row 1: its networks were "+name) {
				t.Errorf("networks %s: %v", name, err)
			}
		}
		for day := range 5 {
			l.ms.Add((25 * time.Hour).Milliseconds())
			l.must(l.Prune(ctx))
			now, _ := l.rows()
			if err := verify(now, head); err != nil {
				t.Errorf("day %d: %v", day, err)
			}
			if bodies := day < 2; now[0].Networks+now[0].NetworksSalt+now[1].Networks != "" || bodies != (now[0].Body != "") {
				t.Errorf("day %d: %+v", day, now[:2])
			}
		}
	})
}

func TestFailuresFromManyNetworksAreBounded(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *lab) {
		for i := range 200 {
			l.Failed(WithNetwork(ctx, fmt.Sprintf("198.18.%d.1", i)), "", "no such user")
		}
		l.must(l.Flush(ctx))
		rows, _ := l.rows()
		if n := strings.Count(rows[0].Networks, "198.18."); len(rows) != 1 || n != maxFailureNetworks {
			t.Errorf("%d rows with %d networks", len(rows), n)
		}
	})
}

func TestFailuresOfStrangersTakeOneBoundedRecord(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *lab) {
		for i := range 10_000 {
			l.Failed(ctx, fmt.Sprintf("user%d", i), "wrong password")
		}
		l.must(l.Flush(ctx))
		l.must(l.Flush(ctx))
		rows, _ := l.rows()
		if len(rows) != 1 || len(rows[0].Body) > 2000 || !strings.Contains(rows[0].Body, `" others":"9980"`) {
			t.Errorf("%d rows, %+v", len(rows), rows)
		}
		var none *Log
		none.Failed(ctx, "alice", "wrong password")
	})
}

func TestCheckpointsReachEverySinkAndAreTriedAgain(t *testing.T) {
	down := atomic.Bool{}
	var posted []byte
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		buf := make([]byte, 1<<16)
		n, _ := r.Body.Read(buf)
		posted = append(append(posted, buf[:n]...), '\n')
	}))
	defer hook.Close()
	each(t, Options{}, func(t *testing.T, l *lab) {
		file := filepath.Join(t.TempDir(), "checkpoints")
		posted = nil
		l.opts.Sinks = []Sink{FileSink(file), WebhookSink(hook.URL)}
		l.record(2)
		down.Store(true)
		if err := l.Checkpoint(ctx); err == nil {
			t.Error("a webhook that is down is no error")
		}
		down.Store(false)
		l.must(l.Checkpoint(ctx)) // the record of the key is new since the first attempt
		l.must(l.Checkpoint(ctx)) // nothing is new
		raw, err := os.ReadFile(file)
		l.must(err)
		rows, key := l.rows()
		for name, sink := range map[string][]byte{"file": raw, "webhook": posted, "syslog": []byte("Jan  1 00:00:00 host ebb[1]: " + string(posted))} {
			list, err := ReadCheckpoints(sink, key)
			want := map[string]int{"file": 2, "webhook": 1, "syslog": 1}[name]
			if err != nil || len(list) != want || verify(rows, list...) != nil {
				t.Errorf("%s: %v %v, %v", name, list, err, verify(rows, list...))
			}
		}
		forged := strings.Replace(string(raw), `\n2\n`, `\n1\n`, 1)
		if _, err := ReadCheckpoints([]byte(forged), key); err == nil || forged == string(raw) {
			t.Error("a forged checkpoint is accepted")
		}
		if _, err := ReadCheckpoints(raw, "example.org+00000000+AAAA"); err == nil {
			t.Error("another key is accepted")
		}
	})
}

func TestSyslogSinkSendsOneLine(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	line := `{"ebb_audit_checkpoint":"text\n"}`
	if err := SyslogSink("udp://"+server.LocalAddr().String()).Send(ctx, []byte(line)); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, _, err := server.ReadFrom(buf)
	if err != nil || !strings.Contains(string(buf[:n]), line) {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

func TestTheKeyOfCheckpointsIsEncryptedAndOutlivesARotation(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *lab) {
		var lines []byte
		l.opts.Sinks = []Sink{{"test", func(_ context.Context, line []byte) error { lines = append(append(lines, line...), '\n'); return nil }}}
		stored := func() (sealed, verifier string) {
			l.must(l.db.Read(ctx, func(tx *storage.Tx) (err error) { sealed, verifier, err = tx.AuditKey(); return err }))
			return sealed, verifier
		}
		l.record(1)
		l.must(l.Checkpoint(ctx))
		sealed, verifier := stored()
		if strings.Contains(sealed, "PRIVATE") {
			t.Errorf("the key is stored as %s", sealed)
		}
		l.must(l.opts.Secrets.Rotate())
		l.record(1)
		l.must(l.Checkpoint(ctx))
		again, same := stored()
		if again == sealed || same != verifier || l.opts.Secrets.Stale(again) {
			t.Errorf("after the rotation: encrypted anew %v, key %s and %s", again != sealed, verifier, same)
		}
		if list, err := ReadCheckpoints(lines, verifier); err != nil || len(list) != 2 {
			t.Errorf("%v, %v", list, err)
		}
	})
}

func TestARecordIsPartOfTheWriteOfItsAct(t *testing.T) {
	each(t, Options{}, func(t *testing.T, l *lab) {
		failed := errors.New("the act failed")
		err := l.db.Write(ctx, func(tx *storage.Tx) error {
			l.must(l.Add(ctx, tx, "user locked"))
			return failed
		})
		if rows, _ := l.rows(); !errors.Is(err, failed) || len(rows) != 0 {
			t.Errorf("%v, %d rows", err, len(rows))
		}
	})
}
