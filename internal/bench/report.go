package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report prints figures as they become known.
type report struct{ header bool }

// figure is one line of the report: the measurement, the limit of the machine if there is one, and the target.
type figure struct {
	name   string
	unit   string
	values []float64
	limit  []float64 // nil if there is no limit
	aim    string
}

func (r *report) print(figures ...figure) {
	if !r.header {
		fmt.Printf("%-58s %12s %12s %8s  %s\n", "", "Ebb", "limit", "ratio", "aim")
		r.header = true
	}
	for _, f := range figures {
		ebb := median(f.values)
		limit, ratio := "", ""
		if f.limit != nil {
			l := median(f.limit)
			limit, ratio = number(l), fmt.Sprintf("%.2f", ebb/l)
		}
		fmt.Printf("%-58s %12s %12s %8s  %s\n", f.name+", "+f.unit, number(ebb), limit, ratio, f.aim)
	}
}

// median returns the median of the values; for an even count, the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// percentile returns the percentile p, which is between 0 and 1.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// number formats a value with at least three digits.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func printMachine(rounds int, duration time.Duration) {
	cpu := "unknown processor"
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	fmt.Printf("%s, %d cores, %s, %s/%s; median of %d measurements of %v; load before: %s\n\n",
		cpu, runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, rounds, duration, loadAverage())
}

func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}
