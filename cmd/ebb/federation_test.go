package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/outbox"
	"ebb/storage"
)

func TestDeliveryToOtherServersIsShownAndRetried(t *testing.T) {
	s := newSite(t, 0)
	since := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	db, err := storage.Open(context.Background(), storage.Config{DSN: "sqlite:" + filepath.Join(s.dir, "ebb.db")})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(context.Background(), func(tx *storage.Tx) error {
		_, err := tx.AddEDU("dead.invalid", 0, []byte("{}"))
		return errors.Join(err,
			tx.PutDestination(storage.Destination{Server: "alive.invalid", ReachedTS: since.UnixMilli()}),
			tx.PutDestination(storage.Destination{Server: "dead.invalid", Failures: 9, FailingSince: since.UnixMilli(), RetryTS: since.Add(5 * time.Hour).UnixMilli()}))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	cfg := "--config=" + s.config
	check := func(t *testing.T) {
		list := parsed[[]outbox.Status](t, must(t, "", "federation", "status", "--json", cfg))
		if len(list) != 2 || list[0].Server != "dead.invalid" || list[0].Failures != 9 || !list[0].FailingSince.Equal(since) || list[0].EDUs != 1 ||
			list[1].Server != "alive.invalid" || list[1].Retry != nil || !list[1].Reached.Equal(since) {
			t.Errorf("the status is %+v", list)
		}
		if text := must(t, "", "federation", "status", "dead.invalid", cfg); !strings.Contains(text, "0 events and 1 EDUs are queued; no response since") || strings.Contains(text, "alive") {
			t.Errorf("the status of one is %q", text)
		}
		if text := must(t, "", "federation", "status", "alive.invalid", cfg); !strings.Contains(text, "nothing is queued") {
			t.Errorf("the status of the other is %q", text)
		}
		refusedWith(t, 3, "", "", "federation", "status", "unheard-of.invalid", cfg)
		refusedWith(t, 3, "", "", "federation", "retry", "unheard-of.invalid", cfg)
	}
	t.Run("stopped", check)
	stop := s.serve(t)
	t.Run("running", check)
	must(t, "", "federation", "retry", "dead.invalid", cfg)
	if list := parsed[[]outbox.Status](t, must(t, "", "federation", "status", "dead.invalid", "--json", cfg)); list[0].Retry != nil {
		t.Errorf("after the retry the status is %+v", list)
	}
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
	if list := parsed[[]outbox.Status](t, must(t, "", "federation", "status", "dead.invalid", "--json", cfg)); list[0].Retry != nil && list[0].Retry.After(time.Now()) {
		t.Errorf("after the restart the status is %+v", list)
	}
}
