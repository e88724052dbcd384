package appservice

import (
	"time"

	"ebb/telemetry"
)

var (
	sentEvents  = telemetry.NewCounterVec("ebb_appservice_events_total", "Events that application services have confirmed.", "appservice")
	sentTxns    = telemetry.NewCounterVec("ebb_appservice_transactions_total", "Transactions sent to application services, by result.", "appservice", "result")
	sendSeconds = telemetry.NewHistogramVec("ebb_appservice_seconds", "Time until an application service answers a transaction.", telemetry.Seconds(), "appservice")
)

// observe records a transaction in the metrics.
func observe(app string, err error, events int, took time.Duration) {
	sendSeconds.WithLabelValues(app).Observe(took.Seconds())
	if err != nil {
		sentTxns.WithLabelValues(app, "failed").Inc()
		return
	}
	sentTxns.WithLabelValues(app, "confirmed").Inc()
	sentEvents.WithLabelValues(app).Add(float64(events))
}
