package rooms

import "ebb/telemetry"

var (
	committedEvents = telemetry.NewCounterVec("ebb_rooms_events_total", "Events committed, by kind (message, state) and room version.", "kind", "version")
	rebuilds        = telemetry.NewCounter("ebb_rooms_rebuilds_total", "Changes built again because a write before them in their room failed.")
	resolutions     = telemetry.NewCounter("ebb_rooms_state_resolutions_total", "States resolved where the graph forked.")
	backfilled      = telemetry.NewCounter("ebb_rooms_backfilled_events_total", "Events of the past that other servers gave.")
	partialGauge    = telemetry.NewGauge("ebb_rooms_partial", "Rooms of other servers that were joined and whose members are being asked for.")
	received        = telemetry.NewCounterVec("ebb_rooms_received_events_total", "Events of other servers by what became of them (accepted, rejected, soft_failed, refused, known).", "result")
)

// count notes a committed batch.
func (b *batch) count() {
	for _, e := range b.events {
		kind := "message"
		if e.IsState() {
			kind = "state"
		}
		committedEvents.WithLabelValues(kind, string(b.room.version.ID)).Inc()
	}
}
