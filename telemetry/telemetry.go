// Package telemetry is how Ebb tells what it does: structured logs and Prometheus metrics.
//
// A package that counts something makes its metric once, in a package variable, by NewCounter and the like; all of them
// are served by Handler. Names begin with ebb_; ids of users and rooms and names of servers never become labels, since
// strangers choose them and each value costs memory for good.
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

// ParseLevel reads debug, info, warn or error.
func ParseLevel(text string) (l slog.Level, err error) {
	if err = l.UnmarshalText([]byte(text)); err != nil {
		err = fmt.Errorf("log level: %w", err)
	}
	return l, err
}

// NewLogger returns a logger that writes to w what is at least of the level, which may change at any time. format is text or
// json. What is logged with the context of a request carries its id and the address that it came from.
func NewLogger(w io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(withRequest{slog.NewTextHandler(w, o)}), nil
	case "json":
		o.ReplaceAttr = durationsWithUnit
		return slog.New(withRequest{slog.NewJSONHandler(w, o)}), nil
	}
	return nil, fmt.Errorf("log format %q is neither text nor json", format)
}

// durationsWithUnit writes time spans as 1.5s: in JSON they are bare numbers of nanoseconds otherwise.
func durationsWithUnit(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

type requestKey struct{}

// request is where something that is logged comes from.
type request struct{ id, peer string }

// WithRequest marks a context as that of a request, of which peer is the address.
func WithRequest(ctx context.Context, id, peer string) context.Context {
	return context.WithValue(ctx, requestKey{}, request{id, peer})
}

// withRequest adds the request's id and the peer's address to what is logged with its context.
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

// The kinds of metrics. A Vec has labels: its With… methods give the metric for their values.
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

// register adds a metric; two of one name are a mistake in the program, found at its start.
func register[C prometheus.Collector](name string, c C) C {
	if !strings.HasPrefix(name, "ebb_") {
		panic("metric " + name + " does not begin with ebb_")
	}
	registry.MustRegister(c)
	return c
}

// NewCounter makes a count that only grows.
func NewCounter(name, help string) Counter {
	return register(name, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
}

// NewCounterVec makes counters told apart by labels.
func NewCounterVec(name, help string, labels ...string) *CounterVec {
	return register(name, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

// NewGauge makes a value that goes up and down.
func NewGauge(name, help string) Gauge {
	return register(name, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
}

// NewInfo makes a metric whose value is 1 and whose labels tell something.
func NewInfo(name, help string, labels ...string) *prometheus.GaugeVec {
	return register(name, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
}

// NewHistogram makes a distribution over the upper bounds in buckets.
func NewHistogram(name, help string, buckets []float64) Histogram {
	return register(name, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}))
}

// NewHistogramVec makes distributions told apart by labels.
func NewHistogramVec(name, help string, buckets []float64, labels ...string) *HistogramVec {
	return register(name, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels))
}

// Seconds are bounds for the duration of work on one machine, from half a millisecond to half a minute.
func Seconds() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30}
}

// Handler serves every metric in the text form of Prometheus.
func Handler() http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
