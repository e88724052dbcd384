package storage_test

import (
	"errors"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestWhilePostgresIsAwayReadsAndWritesSaySo(t *testing.T) {
	dsn, line := storagetest.PostgresByLine(t)
	db := storagetest.Open(t, storage.Config{DSN: dsn})
	wait(t, db.Enqueue(adding("before")))
	read := func() error {
		return db.Read(ctx, func(tx *storage.Tx) error {
			_, err := tx.Int64(`SELECT count(*) FROM to_device`)
			return err
		})
	}
	during := db.Write(ctx, func(tx *storage.Tx) error {
		line.Cut()
		return add(tx, "lost")
	})
	for what, err := range map[string]error{
		"a write during which the connection is lost": during, "a write": db.Write(ctx, func(tx *storage.Tx) error { return add(tx, "lost") }), "a read": read(),
	} {
		if !errors.Is(err, storage.ErrAway) || !storage.IsOutage(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := errors.New("refused")
	line.Mend()
	if err := db.Write(ctx, func(*storage.Tx) error { return refused }); !errors.Is(err, refused) || storage.IsOutage(err) {
		t.Errorf("a write that refuses something: %v", err)
	}
	wait(t, db.Enqueue(adding("after")))
	if err := read(); err != nil {
		t.Error(err)
	}
	if got := rows(t, db); got != "before after" {
		t.Errorf("the database has %q", got)
	}
}
