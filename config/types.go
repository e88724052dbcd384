package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size, such as 500, 64K, 50M, 2G or 1T. Units are powers of 1,024 in every spelling: M, MB and MiB mean the
// same.
type Bytes int64

var byteUnits = []struct {
	suffix string
	factor int64
}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"", 1}}

// sizeForm matches a number, possibly with a fraction, and an optional unit.
var sizeForm = regexp.MustCompile(`^([0-9]+)(\.[0-9]{1,9})? ?(?:([KMGT])(?:I?B)?|B)?$`)

// ParseBytes parses a size.
func ParseBytes(text string) (Bytes, error) {
	mistake := fmt.Errorf("%q is not a size such as 500, 64K, 50M or 2G", text)
	parts := sizeForm.FindStringSubmatch(strings.ToUpper(text))
	if parts == nil {
		return 0, mistake
	}
	for _, u := range byteUnits {
		if u.suffix != parts[3] {
			continue
		}
		whole, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || whole > math.MaxInt64/u.factor-1 {
			return 0, mistake
		}
		fraction, err := strconv.ParseFloat("0"+parts[2], 64)
		if err != nil || fraction > 0 && u.factor == 1 {
			return 0, mistake
		}
		return Bytes(whole*u.factor + int64(fraction*float64(u.factor))), nil
	}
	return 0, mistake
}

// String returns the shortest exact form of the size.
func (b Bytes) String() string {
	for _, u := range []struct {
		suffix string
		factor Bytes
	}{{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}} {
		if b != 0 && b%u.factor == 0 {
			return strconv.FormatInt(int64(b/u.factor), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// MarshalYAML implements yaml.Marshaler.
func (b Bytes) MarshalYAML() (any, error) { return b.String(), nil }

// Duration is a time span, such as 30s, 5m, 12h, 30d or 52w, or a combination such as 1d12h.
type Duration time.Duration

// ParseDuration parses a time span. It must not be negative.
func ParseDuration(text string) (Duration, error) {
	mistake := fmt.Errorf("%q is not a time span such as 30s, 5m, 12h or 30d", text)
	if strings.HasPrefix(text, "-") {
		mistake = fmt.Errorf("%q is negative, but must be a time span such as 30s, 5m, 12h or 30d", text)
	}
	total, rest := time.Duration(0), text
	for _, u := range []struct {
		suffix string
		unit   time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		before, after, found := strings.Cut(rest, u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(before, 10, 32)
		if errors.Is(err, strconv.ErrRange) || err == nil && time.Duration(n) > (math.MaxInt64-total)/u.unit {
			return 0, fmt.Errorf("%q is too long a time span", text)
		}
		if err != nil || n < 0 {
			return 0, mistake
		}
		total += time.Duration(n) * u.unit
		rest = after
	}
	if rest == "" && text != "" {
		return Duration(total), nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-total {
		return 0, mistake
	}
	return Duration(total + d), nil
}

// String returns a form that ParseDuration accepts.
func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }
