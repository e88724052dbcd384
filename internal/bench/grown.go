package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// grown measures servers with databases of different sizes. Sends and syncs are measured in turn, so that other load on
// the machine affects all servers alike. On the last server it then measures restarts and bytes on disk.
func (b *bench) grown() error {
	limit, err := b.startLimit(0)
	if err != nil {
		return err
	}
	defer limit.kill()
	houses := make([]*house, len(b.events))
	for i, n := range b.events {
		p, err := b.startEbb(fmt.Sprint("grown-", n), 0)
		if err != nil {
			return err
		}
		defer func() { p.stop() }()
		if houses[i], err = newHouse(p, 16, 40); err != nil {
			return err
		}
		if err := houses[i].grow(n); err != nil {
			return err
		}
	}
	if err := b.grownFigures(houses, limit); err != nil {
		return err
	}
	last := houses[len(houses)-1]
	return b.restarts(last, b.events[len(b.events)-1])
}

// grow sends n messages.
func (h *house) grow(n int) error {
	return parallel(len(h.senders), len(h.senders), func(i int) error {
		for k := range n / len(h.senders) {
			if err := h.senders[i].send(h.rooms[i][k%len(h.rooms[i])]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) grownFigures(houses []*house, limit *process) error {
	sends, nothing := make([]samples, len(houses)), make([]samples, len(houses))
	var bareSends, bare samples
	for range b.rounds {
		if err := bareSends.add(measureLimit(limit, "/all/x/", len(houses[0].senders), b.duration/2)); err != nil {
			return err
		}
		for i, h := range houses {
			if err := sends[i].add(h.measure(func() (int, error) { return h.talk(b.duration / 2) })); err != nil {
				return err
			}
		}
	}
	for range b.rounds { // separate from the sends, whose garbage would otherwise be collected during the syncs
		if err := bare.add(measureLimit(limit, "/bare/x/", 4, b.duration/4)); err != nil {
			return err
		}
		for i, h := range houses {
			if err := nothing[i].add(nothingNew(h.process, h.senders[0], b.duration/2)); err != nil {
				return err
			}
		}
	}
	const aim = "within 20 % of each other"
	for i, n := range b.events {
		b.print(figure{
			fmt.Sprintf("sends at %d events", n), "CPU s/1000",
			sends[i].pooled().of(spent.per1000), bareSends.pooled().of(spent.per1000), aim,
		})
	}
	for i, n := range b.events {
		b.print(figure{
			fmt.Sprintf("/sync with nothing new at %d events", n), "CPU ms",
			nothing[i].pooled().of(spent.millis), bare.pooled().of(spent.millis), aim,
		})
	}
	return nil
}

// restarts measures starting after a clean stop and after a kill, and the size of the database while no process has it
// open.
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

// bytesPerEvent returns the ratio of the size of the database file to the size of the events' JSON.
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

// command runs a command of the ebb binary on the running server.
func (p *process) command(name string, args ...string) ([]byte, error) {
	all := append(strings.Fields(name), "--config", p.config())
	out, err := exec.Command(p.binary, append(all, args...)...).Output()
	if err != nil {
		err = fmt.Errorf("ebb %s: %w", name, err)
	}
	return out, err
}
