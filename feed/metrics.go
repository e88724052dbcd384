package feed

import "ebb/telemetry"

var (
	syncAnswers = telemetry.NewCounterVec("ebb_sync_answers_total", "Answers of /sync: first ones, ones with news, ones without.", "kind")
	syncWakeups = telemetry.NewCounter("ebb_sync_wakeups_total", "Waiting requests that looked again because something had happened.")
	syncWaiting = telemetry.NewGauge("ebb_sync_waiting", "Requests that wait for news.")
	syncBuild   = telemetry.NewHistogram("ebb_sync_build_seconds", "Time to look for news once and to write them.", telemetry.Seconds())
)

// count counts an answer in the metrics.
func (r *request) count(news bool) {
	kind := "empty"
	switch {
	case r.initial:
		kind = "first"
	case news:
		kind = "news"
	}
	syncAnswers.WithLabelValues(kind).Inc()
}
