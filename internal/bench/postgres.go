package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// postgresVariable is the environment variable with the address of a PostgreSQL server (see internal/pgtest).
const postgresVariable = "EBB_TEST_POSTGRES"

const (
	// postgresSenders send to postgresRooms rooms.
	postgresSenders = 16
	postgresRooms   = 64
	// postgresSynced is the number of rooms of the user whose first sync is measured. Each has perRoom messages.
	postgresSynced = 100
)

// sealedPair has measurements of one operation, with and without database_keys.
type sealedPair struct{ with, without samples }

func (s *sealedPair) of(keys bool) *samples {
	if keys {
		return &s.with
	}
	return &s.without
}

// postgres measures sends and syncs on PostgreSQL. Two servers take turns, one of which encrypts messages in the
// database (database_keys). The other one is printed as the limit.
func (b *bench) postgres() error {
	if os.Getenv(postgresVariable) == "" {
		return fmt.Errorf("%s is not set: go run ./internal/pgtest -- go run ./internal/bench -only postgres", postgresVariable)
	}
	var sends, begun, warm, cold sealedPair
	servers := map[bool]*sealed{}
	for _, keys := range []bool{true, false} {
		m, err := b.newSealed(keys)
		if err != nil {
			return err
		}
		defer m.stop()
		servers[keys] = m
	}
	for range b.rounds {
		for keys, m := range servers {
			err := errors.Join(
				sends.of(keys).add(m.measure(func() (int, error) { return m.talk(b.duration) })),
				begun.of(keys).add(m.measure(func() (int, error) {
					return concurrently(1, b.duration, func(int, int) error { _, err := m.alice.createRoom(); return err })
				})),
				warm.of(keys).add(firstSyncs(m.process, m.bob, b.duration)),
				cold.of(keys).add(m.coldSync()),
			)
			if err != nil {
				return err
			}
		}
	}
	b.print(
		figure{"PostgreSQL, database_keys: sends of 16 users", "a second", sends.with.of(spent.perSecond), sends.without.of(spent.perSecond), ""},
		figure{"PostgreSQL, database_keys: a send", "CPU ms", sends.with.of(spent.millis), sends.without.of(spent.millis), ""},
		figure{"PostgreSQL, database_keys: a new room", "ms", begun.with.of(spent.wallMillis), begun.without.of(spent.wallMillis), ""},
		figure{"PostgreSQL, database_keys: first /sync of 100 rooms, warm", "ms", warm.with.of(spent.wallMillis), warm.without.of(spent.wallMillis), ""},
		figure{"PostgreSQL, database_keys: the same after a restart", "ms", cold.with.of(spent.wallMillis), cold.without.of(spent.wallMillis), ""},
		figure{"PostgreSQL, database_keys: the same after a restart", "CPU ms", cold.with.of(spent.millis), cold.without.of(spent.millis), ""},
	)
	return nil
}

func (s spent) wallMillis() float64 { return float64(s.wall.Microseconds()) / 1000 / float64(s.ops) }

// sealed is a server on a database of its own.
type sealed struct {
	*house
	alice, bob *account // bob is in postgresSynced rooms
}

func (b *bench) newSealed(keys bool) (*sealed, error) {
	dsn, err := newDatabase()
	if err != nil {
		return nil, err
	}
	name, setting := "postgres-plain", "off"
	if keys {
		name, setting = "postgres-keys", "keys"
	}
	p, err := b.startEbbWith(name, fmt.Sprintf("database: %q\ndatabase_keys: %q\n", dsn, setting))
	if err != nil {
		return nil, err
	}
	m, err := fillSealed(p)
	if err != nil {
		p.stop()
	}
	return m, err
}

// fillSealed creates the users and rooms of the measurements.
func fillSealed(p *process) (*sealed, error) {
	people, err := p.register("p", 2)
	if err != nil {
		return nil, err
	}
	m := &sealed{alice: people[0], bob: people[1]}
	for range postgresSynced {
		if _, err := fillRoom(m.alice, m.bob); err != nil {
			return nil, err
		}
	}
	m.house, err = newHouse(p, postgresSenders, postgresRooms)
	return m, err
}

// coldSync measures the first sync of a new device after a restart, with empty caches.
func (m *sealed) coldSync() (spent, error) {
	for _, a := range append(m.senders, m.alice, m.bob) {
		a.close()
	}
	m.stop()
	if _, err := m.serve(0); err != nil {
		return spent{}, err
	}
	return m.measure(func() (int, error) {
		_, _, err := m.bob.sync("", 0)
		return 1, err
	})
}

// newDatabase creates a database on the PostgreSQL server and returns its address. It goes with the server.
func newDatabase() (dsn string, err error) {
	u, err := url.Parse(os.Getenv(postgresVariable))
	if err != nil {
		return "", err
	}
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		return "", err
	}
	u.Path = "/bench_" + strings.ToLower(rand.Text())
	_, err = db.ExecContext(context.Background(), `CREATE DATABASE `+u.Path[1:]+` TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'`)
	return u.String(), errors.Join(err, db.Close())
}
