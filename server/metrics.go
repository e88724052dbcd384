package server

import (
	"time"

	"ebb/retention"
	"ebb/telemetry"
)

var (
	commitWrites = telemetry.NewHistogram("ebb_storage_commit_writes", "Writes per commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512})
	commitTime   = telemetry.NewHistogram("ebb_storage_commit_seconds", "Duration of a commit, including its writes.", []float64{.0005, .001, .0025, .005, .01, .025, .1, .5})

	purgedEvents  = telemetry.NewCounter("ebb_retention_purged_events_total", "Expired messages removed from the database.")
	keptEvents    = telemetry.NewGauge("ebb_retention_kept_until_timestamp_seconds", "When messages that expired only because the clock jumped are purged, in seconds since 1970; 0 if the clock has not jumped.")
	waitingEvents = telemetry.NewGauge("ebb_retention_waiting_events", "Expired messages that stay on disk for a while, because they expired when a policy was shortened.")
	stoppedUntil  = telemetry.NewGauge("ebb_retention_stopped_until_timestamp_seconds", "When the purge goes on that has stopped because far more messages expired than usual, in seconds since 1970; 0 if it has not stopped.")
	purgeDelay    = telemetry.NewGauge("ebb_retention_purge_delay_seconds", "The longest time between the expiry of a message and its removal, in the last purge that removed any.")
	purgeOwed     = telemetry.NewGauge("ebb_retention_files_owed", "1 if the files may still contain messages that were purged, because the write-ahead log could not be emptied, else 0.")
	removedRooms  = telemetry.NewCounter("ebb_retention_removed_rooms_total", "Rooms that were removed because all local users had left them.")
	purgeTime     = telemetry.NewHistogram("ebb_retention_purge_seconds", "Duration of one purge of all rooms.", []float64{.01, .1, 1, 10, 60, 600})
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
	waitingEvents.Set(float64(r.Waiting))
	stoppedUntil.Set(0)
	if r.StoppedUntil != nil {
		stoppedUntil.Set(float64(r.StoppedUntil.Unix()))
	}
	if r.Events > 0 {
		purgeDelay.Set(r.Oldest.Seconds())
	}
	purgeOwed.Set(0)
	if r.Owed {
		purgeOwed.Set(1)
	}
	purgedEvents.Add(float64(r.Events))
	removedRooms.Add(float64(r.Removed))
	purgeTime.Observe(r.Took.Seconds())
}
