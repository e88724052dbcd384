// Package telemetry provides structured logging and Prometheus metrics.
//
// A package that counts something creates its metrics once, in package variables, with NewCounter and similar
// functions; Handler serves all of them. Names begin with ebb_. User IDs, room IDs and server names are never labels,
// because strangers choose them and each value uses memory for ever.
package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// ParseLevel parses debug, info, warn or error.
func ParseLevel(text string) (l slog.Level, err error) {
	if err = l.UnmarshalText([]byte(text)); err != nil {
		err = fmt.Errorf("log level: %w", err)
	}
	return l, err
}

// NewLogger returns a logger that writes to w. It drops records below the given level, which may change at any time.
// format is text or json. A record that is logged with the context of a request carries the request's ID and the peer's
// address. Of the addresses of people, the log has only what shown says.
func NewLogger(w io.Writer, level slog.Leveler, format string, shown Addresses) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		o.ReplaceAttr = durationsWithUnit
	}
	if inner := o.ReplaceAttr; shown != FullAddresses {
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if inner != nil {
				a = inner(groups, a)
			}
			return shown.shortenAttr(a)
		}
	}
	switch format {
	case "text":
		return slog.New(withRequest{slog.NewTextHandler(w, o)}), nil
	case "json":
		return slog.New(withRequest{slog.NewJSONHandler(w, o)}), nil
	}
	return nil, fmt.Errorf("log format %q is neither text nor json", format)
}

// durationsWithUnit formats durations like 1.5s. JSON would otherwise show them as nanoseconds.
func durationsWithUnit(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

type requestKey struct{}

// request identifies the request that a log record belongs to.
type request struct{ id, peer string }

// WithRequest returns a context that makes log records carry the ID of a request and the address of its peer.
func WithRequest(ctx context.Context, id, peer string) context.Context {
	return context.WithValue(ctx, requestKey{}, request{id, peer})
}

// InRequest reports whether ctx is the context of a request.
func InRequest(ctx context.Context) bool {
	_, ok := ctx.Value(requestKey{}).(request)
	return ok
}

// withRequest is a slog.Handler that adds the request's ID and the peer's address.
type withRequest struct{ slog.Handler }

// Handle implements slog.Handler.
func (h withRequest) Handle(ctx context.Context, r slog.Record) error {
	if from, ok := ctx.Value(requestKey{}).(request); ok {
		r.AddAttrs(slog.String("request", from.id), slog.String("peer", from.peer))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h withRequest) WithAttrs(attrs []slog.Attr) slog.Handler {
	return withRequest{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h withRequest) WithGroup(name string) slog.Handler {
	return withRequest{h.Handler.WithGroup(name)}
}

// These are the types of metrics. A Vec has labels; its With… methods return the metric for the given label values.
type (
	Counter      = prometheus.Counter
	CounterVec   = prometheus.CounterVec
	Gauge        = prometheus.Gauge
	Histogram    = prometheus.Observer
	HistogramVec = prometheus.HistogramVec
)

var registry = newRegistry()

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// register registers a metric. It panics on a duplicate name, which is a programming error and shows at startup.
func register[C prometheus.Collector](name string, c C) C {
	if !strings.HasPrefix(name, "ebb_") {
		panic("metric " + name + " does not begin with ebb_")
	}
	registry.MustRegister(c)
	return c
}

// NewCounter returns a counter, a value that only grows.
func NewCounter(name, help string) Counter {
	return register(name, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
}

// NewCounterVec returns counters that are distinguished by labels.
func NewCounterVec(name, help string, labels ...string) *CounterVec {
	return register(name, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

// NewGauge returns a gauge, a value that goes up and down.
func NewGauge(name, help string) Gauge {
	return register(name, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
}

// NewInfo returns a metric whose value is 1 and whose labels carry information.
func NewInfo(name, help string, labels ...string) *prometheus.GaugeVec {
	return register(name, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
}

// NewHistogram returns a histogram with the given upper bounds of its buckets.
func NewHistogram(name, help string, buckets []float64) Histogram {
	return register(name, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}))
}

// NewHistogramVec returns histograms that are distinguished by labels.
func NewHistogramVec(name, help string, buckets []float64, labels ...string) *HistogramVec {
	return register(name, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels))
}

// Seconds returns bucket bounds for the duration of local work, from half a millisecond to half a minute.
func Seconds() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30}
}

// Handler returns a handler that serves all metrics in the Prometheus text format.
func Handler() http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
