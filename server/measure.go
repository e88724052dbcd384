package server

import (
	"context"
	"time"

	"ebb/storage"
	"ebb/telemetry"
)

var (
	buildInfo     = telemetry.NewInfo("ebb_build_info", "Always 1; the labels are the version of Ebb and of Go.", "version", "go")
	usersGauge    = telemetry.NewGauge("ebb_users", "Accounts that are not deactivated.")
	roomsGauge    = telemetry.NewGauge("ebb_rooms", "Rooms in the database, including rooms of other servers.")
	databaseGauge = telemetry.NewGauge("ebb_database_bytes", "Size of the database, including the write-ahead log of SQLite.")
	mediaGauge    = telemetry.NewGauge("ebb_media_bytes", "Size of all uploads.")
	remoteGauge   = telemetry.NewGauge("ebb_remote_media_bytes", "Size of the cached files from other servers.")
	holdsGauge    = telemetry.NewGauge("ebb_legal_holds", "Legal holds that stand.")
	keysGauge     = telemetry.NewGauge("ebb_message_keys_pending_seconds", "How long ago something was deleted that can still be read in copies of a PostgreSQL database, because its key is not destroyed yet; more than 86400 is late.")
	overdueGauge  = telemetry.NewGauge("ebb_legal_holds_overdue", "Legal holds that are past their review date.")
)

// measureInterval is how often the gauges of sizes are updated. Counting scans whole tables, which would be too slow
// for every scrape.
const measureInterval = 5 * time.Minute

// measure updates the gauges of sizes until ctx ends.
func (s *Server) measure(ctx context.Context) error {
	tick := time.NewTicker(measureInterval)
	defer tick.Stop()
	for {
		if err := s.measureOnce(ctx); err != nil && ctx.Err() == nil {
			s.opt.Log.Warn("some metrics could not be measured", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Server) measureOnce(ctx context.Context) error {
	var t storage.Totals
	var oldest time.Time
	err := s.svc.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if t, err = tx.Totals(); err != nil {
			return err
		}
		_, oldest, err = tx.PendingKeys()
		return err
	})
	if err != nil {
		return err
	}
	bytes, err := s.svc.db.Size(ctx)
	if err != nil {
		return err
	}
	held, overdue, err := s.svc.holds.Count(ctx)
	if err != nil {
		return err
	}
	holdsGauge.Set(float64(held))
	overdueGauge.Set(float64(overdue))
	keysGauge.Set(0)
	if !oldest.IsZero() {
		keysGauge.Set(s.opt.Now().Sub(oldest).Seconds())
	}
	usersGauge.Set(float64(t.Users))
	roomsGauge.Set(float64(t.Rooms))
	mediaGauge.Set(float64(t.Media))
	remoteGauge.Set(float64(t.RemoteMedia))
	databaseGauge.Set(float64(bytes))
	return nil
}
