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
	purgeTime    = telemetry.NewHistogram("ebb_retention_purge_seconds", "Time of one purge over all rooms.", []float64{.01, .1, 1, 10, 60, 600})
)

func observeBatch(writes int, took time.Duration) {
	commitWrites.Observe(float64(writes))
	commitTime.Observe(took.Seconds())
}

func observePurge(r retention.Report) {
	purgedEvents.Add(float64(r.Events))
	purgeTime.Observe(r.Took.Seconds())
}
