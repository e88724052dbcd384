package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// grown is the same server as its database grows: sends, syncs, restarts, bytes on disk; at the end all is purged.
func (b *bench) grown() error {
	p, err := b.startEbb("grown", 0)
	if err != nil {
		return err
	}
	defer func() { p.stop() }()
	limit, err := b.startLimit(0)
	if err != nil {
		return err
	}
	defer limit.kill()
	h, err := newHouse(p, 16, 40)
	if err != nil {
		return err
	}
	have := 0
	for _, n := range b.events {
		if err := h.grow(n, &have); err != nil {
			return err
		}
		if err := b.grownFigures(h, limit, n); err != nil {
			return err
		}
	}
	if err := b.restarts(h, have); err != nil {
		return err
	}
	return b.purge(h)
}

// grow sends until there are n messages.
func (h *house) grow(n int, have *int) error {
	missing := n - *have
	if missing <= 0 {
		return nil
	}
	*have = n
	return parallel(len(h.senders), len(h.senders), func(i int) error {
		for k := range missing / len(h.senders) {
			if err := h.senders[i].send(h.rooms[i][k%len(h.rooms[i])]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) grownFigures(h *house, limit *process, n int) error {
	var sends, nothing, bareSends, bare samples
	for range b.rounds {
		if err := bareSends.add(measureLimit(limit, "/all/x/", len(h.senders), b.duration/2)); err != nil {
			return err
		}
		if err := bare.add(measureLimit(limit, "/bare/x/", 4, b.duration/4)); err != nil {
			return err
		}
		if err := sends.add(h.measure(func() (int, error) { return h.talk(b.duration / 2) })); err != nil {
			return err
		}
		if err := nothing.add(nothingNew(h.process, h.senders[0], b.duration/2)); err != nil {
			return err
		}
	}
	at := fmt.Sprintf(" at %d events", n)
	b.print(
		figure{"sends" + at, "CPU s/1000", sends.of(spent.per1000), bareSends.of(spent.per1000), "within 20 % of each other"},
		figure{"/sync with nothing new" + at, "CPU ms", nothing.of(spent.millis), bare.of(spent.millis), "within 20 % of each other"},
	)
	return nil
}

// restarts stops and kills the server, and looks at the database while nobody has it open.
func (b *bench) restarts(h *house, events int) error {
	var orderly, crashed []float64
	for range b.rounds {
		for _, c := range []struct {
			end  func()
			into *[]float64
		}{{h.stop, &orderly}, {h.kill, &crashed}} {
			if _, err := h.talk(b.duration / 3); err != nil {
				return err
			}
			for _, s := range h.senders {
				s.close()
			}
			c.end()
			took, err := h.serve(0)
			if err != nil {
				return err
			}
			*c.into = append(*c.into, float64(took.Microseconds())/1000)
		}
	}
	h.stop()
	ratio, err := bytesPerEvent(filepath.Join(h.dir, "ebb.db"))
	if err != nil {
		return err
	}
	if _, err := h.serve(0); err != nil {
		return err
	}
	at := fmt.Sprintf(", %d events or more", events)
	b.print(
		figure{"restart to first answer" + at, "ms", orderly, nil, "< 100"},
		figure{"restart to first answer after kill -9" + at, "ms", crashed, nil, "< 100"},
		figure{"database file, by the JSON of its events", "ratio", []float64{ratio}, nil, "≤ 1.6"},
	)
	return nil
}

const eventBytes = `SELECT sum(length(CAST(json AS BLOB))) FROM events`

// bytesPerEvent is the size of the database file by that of the events' JSON.
func bytesPerEvent(path string) (float64, error) {
	size, err := sizeOf(path)
	if err != nil {
		return 0, err
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		return 0, err
	}
	var sum int64
	err = db.QueryRowContext(context.Background(), eventBytes).Scan(&sum)
	return float64(size) / float64(sum), errors.Join(err, db.Close())
}

// purge lets all messages expire and has them removed, as `ebb purge now` does.
func (b *bench) purge(h *house) error {
	rooms := map[string]bool{}
	for _, list := range h.rooms {
		for _, room := range list {
			rooms[room] = true
		}
	}
	for room := range rooms {
		if _, err := h.command("room retention set", "--max", "1s", room); err != nil {
			return err
		}
	}
	time.Sleep(1500 * time.Millisecond) // what was sent last expires too
	var report struct {
		Events int           `json:"events"`
		Took   time.Duration `json:"took"`
	}
	var s spent
	err := b.profiled(h.process, "purge", func() (err error) {
		s, err = h.measure(func() (int, error) {
			out, err := h.command("purge now", "--json")
			if err != nil {
				return 0, err
			}
			err = json.Unmarshal(out, &report)
			return report.Events, err
		})
		return err
	})
	if err != nil {
		return err
	}
	b.print(
		figure{fmt.Sprintf("purge of %d events", report.Events), "events/s", []float64{float64(report.Events) / report.Took.Seconds()}, nil, "≥ 20000"},
		figure{fmt.Sprintf("purge of %d events", report.Events), "CPU s/1000", []float64{s.per1000()}, nil, ""},
	)
	return nil
}

// command runs one of the program's commands on the running server.
func (p *process) command(name string, args ...string) ([]byte, error) {
	all := append(strings.Fields(name), "--config", p.config())
	out, err := exec.Command(p.binary, append(all, args...)...).Output()
	if err != nil {
		err = fmt.Errorf("ebb %s: %w", name, err)
	}
	return out, err
}
