package telemetry

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestLoggerWritesTheConfiguredFormatAndLevel(t *testing.T) {
	var text, lines bytes.Buffer
	l, err := NewLogger(&text, slog.LevelWarn, "text", FullAddresses)
	if err != nil {
		t.Fatal(err)
	}
	l.Info("quiet")
	l.Warn("loud", "n", 1)
	if got := text.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "level=WARN msg=loud n=1") {
		t.Errorf("text: %q", got)
	}
	if l, err = NewLogger(&lines, slog.LevelDebug, "json", FullAddresses); err != nil {
		t.Fatal(err)
	}
	l.Debug("small")
	var entry struct{ Msg string }
	if err := json.Unmarshal(lines.Bytes(), &entry); err != nil || entry.Msg != "small" {
		t.Errorf("json: %q %v", lines.String(), err)
	}
	if _, err := NewLogger(&text, slog.LevelInfo, "xml", FullAddresses); err == nil {
		t.Error("xml is a format")
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("loud is a level")
	}
}

func TestLevelOfALoggerChangesWhileItIsInUse(t *testing.T) {
	var text bytes.Buffer
	level := new(slog.LevelVar)
	l, err := NewLogger(&text, level, "text", FullAddresses)
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("early")
	level.Set(slog.LevelDebug)
	l.With("part", "rooms").Debug("late")
	if got := text.String(); strings.Contains(got, "early") || !strings.Contains(got, "late") {
		t.Error(got)
	}
}

func TestLogRecordsOfARequestCarryItsID(t *testing.T) {
	var text bytes.Buffer
	l, err := NewLogger(&text, slog.LevelInfo, "text", FullAddresses)
	if err != nil {
		t.Fatal(err)
	}
	l.With("part", "rooms").InfoContext(WithRequest(t.Context(), "r-7", "192.0.2.1"), "stored")
	if got := text.String(); !strings.Contains(got, "part=rooms") || !strings.Contains(got, "request=r-7 peer=192.0.2.1") {
		t.Error(got)
	}
}

func TestMetricsAreServed(t *testing.T) {
	NewCounterVec("ebb_test_things_total", "Things.", "kind").WithLabelValues("small").Add(3)
	NewHistogram("ebb_test_size", "Sizes.", []float64{4, 8}).Observe(5)
	NewGauge("ebb_test_level", "Level.").Set(7)
	NewCounter("ebb_test_one_total", "One.").Inc()
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, want := range []string{
		`ebb_test_things_total{kind="small"} 3`, `ebb_test_size_bucket{le="4"} 0`, `ebb_test_size_bucket{le="8"} 1`,
		"ebb_test_level 7", "ebb_test_one_total 1", "go_goroutines ", "process_cpu_seconds_total ",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing", want)
		}
	}
}
