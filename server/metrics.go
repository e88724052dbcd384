package server

import (
	"time"

	"ebb/retention"
	"ebb/telemetry"
)

var (
	commitWrites = telemetry.NewHistogram("ebb_storage_commit_writes", "Writes that shared one commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512})
	commitTime   = telemetry.NewHistogram("ebb_storage_commit_seconds", "Time of one commit, its writes included.", []float64{.0005, .001, .0025, .005, .01, .025, .1, .5})

	purgedEvents = telemetry.NewCounter("ebb_retention_purged_events_total", "Expired messages removed from the database.")
	keptEvents   = telemetry.NewGauge("ebb_retention_kept_until_timestamp_seconds", "When messages that expired only by a jump of the clock are purged, in seconds since 1970; 0: the clock has not jumped.")
	purgeTime    = telemetry.NewHistogram("ebb_retention_purge_seconds", "Time of one purge over all rooms.", []float64{.01, .1, 1, 10, 60, 600})
)

func observeBatch(writes int, took time.Duration) {
	commitWrites.Observe(float64(writes))
	commitTime.Observe(took.Seconds())
}

func observePurge(r retention.Report) {
	keptEvents.Set(0)
	if r.KeptUntil != nil {
		keptEvents.Set(float64(r.KeptUntil.Unix()))
	}
	purgedEvents.Add(float64(r.Events))
	purgeTime.Observe(r.Took.Seconds())
}
