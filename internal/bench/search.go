package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// searchMessages is the number of messages in the index. They are spread over searchRooms rooms of one user.
const (
	searchMessages = 200_000
	searchRooms    = 50
)

// search measures what the search index adds to the cost of a send, how large the index becomes, and how long a search
// takes.
func (b *bench) search() error {
	if err := b.indexingCost(); err != nil {
		return err
	}
	for _, text := range []*prose{newProse(latin), newProse(chinese)} {
		if err := b.searchText(text); err != nil {
			return err
		}
	}
	return nil
}

// indexingCost compares sends to a server with search and to one without, in turn.
func (b *bench) indexingCost() error {
	var houses [2][2]*house
	for i, name := range [2]string{"search-on", "search-off"} {
		p, err := b.startEbb(name, 0)
		if err != nil {
			return err
		}
		defer func() { p.stop() }()
		if i == 1 {
			p.stop()
			raw, err := os.ReadFile(p.config())
			if err != nil {
				return err
			}
			if err := os.WriteFile(p.config(), append(raw, "search: {enabled: false}\n"...), 0o600); err != nil {
				return err
			}
			if _, err := p.serve(0); err != nil {
				return err
			}
		}
		for k, rooms := range [2]int{1, 200} {
			if houses[i][k], err = newHouse(p, 16*(k+1), rooms); err != nil {
				return err
			}
		}
	}
	text := newProse(latin)
	var taken [2][2]samples
	for range b.rounds {
		for k := range 2 {
			for i := range 2 {
				h := houses[i][k]
				if err := taken[i][k].add(h.measure(func() (int, error) { return h.write(text, b.duration) })); err != nil {
					return err
				}
			}
		}
	}
	for k, name := range [2]string{"one room", "200 rooms"} {
		on, off := taken[0][k].pooled(), taken[1][k].pooled()
		b.print(figure{"sends with search (limit: without), " + name, "CPU s/1000", on.of(spent.per1000), off.of(spent.per1000), "ratio ≤ 1.20"})
	}
	return nil
}

// write makes all senders send prose for a duration.
func (h *house) write(text *prose, d time.Duration) (int, error) {
	messages := make([][]byte, 1024)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range messages {
		messages[i] = text.message(r)
	}
	return concurrently(len(h.senders), d, func(i, n int) error {
		_, err := h.senders[i].do("PUT", sendPath(h.rooms[i][n%len(h.rooms[i])]), messages[(n*31+i)%len(messages)])
		return err
	})
}

// searchText fills a server with messages and measures the size of the index and the duration of searches.
func (b *bench) searchText(text *prose) error {
	p, err := b.startEbb("search-"+text.name, 0)
	if err != nil {
		return err
	}
	defer func() { p.stop() }()
	users, err := p.register("s"+text.name, 16)
	if err != nil {
		return err
	}
	rooms := make([]string, searchRooms)
	for i := range rooms {
		if rooms[i], err = users[0].createRoom(); err != nil {
			return err
		}
		for _, u := range users[1:] {
			if err := u.join(rooms[i]); err != nil {
				return err
			}
		}
	}
	fill, err := p.measure(func() (int, error) { return searchMessages, text.fill(users, rooms) })
	if err != nil {
		return err
	}
	var took, used [4][]float64
	for k := range took {
		err := b.profiled(p, fmt.Sprintf("search-%s-%d", text.name, k), func() (err error) {
			took[k], used[k], err = p.searches(users[0], rooms[0], text, k)
			return err
		})
		if err != nil {
			return err
		}
	}
	b.print(figure{text.name + ": sends while indexed", "CPU s/1000", []float64{fill.per1000()}, nil, ""})
	for i, name := range [4]string{"rare words", "common words", "one room, by age", "with context and state"} {
		b.print(
			figure{fmt.Sprintf("%s: search of %d messages, %s", text.name, searchMessages, name), "CPU ms", []float64{mean(used[i])}, nil, ""},
			figure{fmt.Sprintf("%s: search of %d messages, %s, p99", text.name, searchMessages, name), "CPU ms", []float64{percentile(used[i], 0.99)}, nil, "< 20"},
			figure{fmt.Sprintf("%s: search of %d messages, %s, p50", text.name, searchMessages, name), "ms", []float64{percentile(took[i], 0.5)}, nil, ""},
			figure{fmt.Sprintf("%s: search of %d messages, %s, p99", text.name, searchMessages, name), "ms", []float64{percentile(took[i], 0.99)}, nil, "< 20"},
		)
	}
	p.stop()
	ratio, err := indexRatio(filepath.Join(p.dir, "ebb.db"))
	if err != nil {
		return err
	}
	b.print(figure{text.name + ": index, by the bytes of the indexed texts", "ratio", []float64{ratio}, nil, "≤ 0.60 (Latin)"})
	_, err = p.serve(0)
	return err
}

// fill sends the messages; the first rooms get more of them.
func (t *prose) fill(users []*account, rooms []string) error {
	return parallel(len(users), len(users), func(i int) error {
		r := rand.New(rand.NewPCG(uint64(i), 7))
		for range searchMessages / len(users) {
			room := rooms[r.IntN(1+r.IntN(len(rooms)))]
			if _, err := users[i].do("PUT", sendPath(room), t.message(r)); err != nil {
				return err
			}
		}
		return nil
	})
}

func mean(values []float64) (m float64) {
	for _, v := range values {
		m += v / float64(len(values))
	}
	return m
}

// searches returns the durations and the CPU times of searches of one kind, in ms.
func (p *process) searches(user *account, room string, text *prose, kind int) (took, used []float64, err error) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		term, more := text.query(r, 2000), `"order_by":"rank"`
		switch kind {
		case 1:
			term = text.query(r, 20)
		case 2:
			term, more = text.query(r, 200), fmt.Sprintf(`"order_by":"recent","filter":{"rooms":[%q]}`, room)
		case 3:
			more = `"order_by":"recent","include_state":true,"event_context":{"include_profile":true},"groupings":{"group_by":[{"key":"room_id"}]}`
		}
		body := fmt.Sprintf(`{"search_categories":{"room_events":{"search_term":%q,%s}}}`, term, more)
		before, err := p.cpuNanos()
		if err != nil {
			return nil, nil, err
		}
		start := time.Now()
		answer, err := user.do("POST", "/_matrix/client/v3/search", []byte(body))
		if err != nil {
			return nil, nil, err
		}
		took = append(took, float64(time.Since(start).Microseconds())/1000)
		after, err := p.cpuNanos()
		if err != nil {
			return nil, nil, err
		}
		used = append(used, float64(after-before)/1e6)
		if kind == 1 && i == 0 && !bytes.Contains(answer, []byte(`"rank"`)) {
			return nil, nil, fmt.Errorf("nothing is found: %.300s", answer)
		}
	}
	return took, used, nil
}

// indexRatio returns the ratio of the size of the index to the size of the indexed texts.
func indexRatio(path string) (float64, error) {
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		return 0, err
	}
	var index, upTo float64
	row := db.QueryRowContext(context.Background(), `SELECT (SELECT sum(pgsize) FROM dbstat WHERE name LIKE 'search_%'), (SELECT max(last_pos) FROM search_blocks)`)
	if err := row.Scan(&index, &upTo); err != nil {
		row := db.QueryRowContext(context.Background(), `SELECT (SELECT sum(length(data) + 8) FROM search_parts) + (SELECT 60 * count(*) FROM search_blocks), (SELECT max(last_pos) FROM search_blocks)`)
		if err := row.Scan(&index, &upTo); err != nil {
			return 0, errors.Join(err, db.Close())
		}
		index *= 4096.0 / 3500 // estimates the overhead of pages if SQLite lacks the module dbstat
	}
	var bytes float64
	rows, err := db.QueryContext(context.Background(), `SELECT json FROM events WHERE type = 'm.room.message' AND position <= ?`, upTo)
	if err != nil {
		return 0, errors.Join(err, db.Close())
	}
	defer rows.Close()
	for rows.Next() {
		var raw string
		var e struct{ Content struct{ Body string } }
		if err := errors.Join(rows.Scan(&raw), json.Unmarshal([]byte(raw), &e)); err != nil {
			return 0, err
		}
		bytes += float64(len(e.Content.Body))
	}
	return index / bytes, errors.Join(rows.Err(), db.Close())
}

// prose generates messages whose words are distributed as in a natural language: the nth word has a frequency of about
// 1/n.
type prose struct {
	name  string
	words []string
	sep   string
}

// latin returns the nth word of an invented language in Latin letters; chinese does so for Chinese characters.
func latin(n int) string {
	r := rand.New(rand.NewPCG(uint64(n), 11))
	var w strings.Builder
	for range 1 + r.IntN(1+min(n, 60)/20) {
		w.WriteByte("bcdfghklmnprstvw"[r.IntN(16)])
		w.WriteByte("aeiou"[r.IntN(5)])
		if r.IntN(2) == 0 {
			w.WriteByte("nrst"[r.IntN(4)])
		}
	}
	return w.String()
}

func chinese(n int) string {
	r := rand.New(rand.NewPCG(uint64(n), 13))
	var w strings.Builder
	for range 1 + r.IntN(3) {
		w.WriteRune(rune(0x4e00 + int(3000*r.Float64()*r.Float64())))
	}
	return w.String()
}

func newProse(word func(int) string) *prose {
	t := &prose{name: "Latin", sep: " ", words: make([]string, 60_000)}
	for i := range t.words {
		t.words[i] = word(i)
	}
	if t.words[0] > "z" {
		t.name, t.sep = "Chinese", ""
	}
	return t
}

func (t *prose) message(r *rand.Rand) []byte {
	zipf := rand.NewZipf(r, 1.07, 2, uint64(len(t.words)-1))
	var body []string
	for range 1 + int(r.ExpFloat64()*11) {
		body = append(body, t.words[zipf.Uint64()])
	}
	return fmt.Appendf(nil, `{"msgtype":"m.text","body":"%s"}`, strings.Join(body, t.sep))
}

// query returns one or two of the most common words.
func (t *prose) query(r *rand.Rand, most int) string {
	term := t.words[r.IntN(most)]
	if r.IntN(2) == 0 {
		term += " " + t.words[r.IntN(most)]
	}
	return term
}
