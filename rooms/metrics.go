package rooms

import (
	"ebb/storage"
	"ebb/telemetry"
)

var (
	committedEvents = telemetry.NewCounterVec("ebb_rooms_events_total", "Events committed, by kind (message, state) and room version.", "kind", "version")
	rebuilds        = telemetry.NewCounter("ebb_rooms_rebuilds_total", "Changes built again because a write before them in their room failed.")
	backfilled      = telemetry.NewCounter("ebb_rooms_backfilled_events_total", "Events of the past that other servers gave.")
	partialGauge    = telemetry.NewGauge("ebb_rooms_partial", "Rooms of other servers that were joined and whose members are being asked for.")
	received        = telemetry.NewCounterVec("ebb_rooms_received_events_total", "Events of other servers by what became of them (accepted, rejected, soft_failed, refused, known).", "result")
)

// countEvents is the Listener that counts events for the metrics.
func (s *Service) countEvents(c *Commit) {
	for _, e := range c.Events {
		if e.Past {
			backfilled.Inc()
			continue
		}
		if e.Flags&storage.OutlierEvent != 0 {
			continue
		}
		kind := "message"
		if e.IsState() {
			kind = "state"
		}
		committedEvents.WithLabelValues(kind, string(c.Room.version.ID)).Inc()
	}
}
