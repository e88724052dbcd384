package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Problem is a mistake in a configuration, or something dangerous about it.
type Problem struct {
	Key  string // such as listen[0].tls; "" for the file as a whole
	Line int    // of the file; 0 where the key does not stand there
	Text string
}

// String is the problem with the place that it is at.
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems are all that is wrong with a configuration, as one error: a line for each.
type Problems []Problem

// Error implements error.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Err is nil where nothing is wrong.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// Sort puts problems into the order of the file.
func (p Problems) Sort() {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), strings.Compare(a.Key, b.Key))
	})
}

// source is where a configuration comes from: for messages.
type source struct {
	lines   map[string]int    // of each key that stands in the file
	secrets map[string]string // values that came from the environment, and how the file writes them
}

// Problem makes a problem with a key, without what may be a password.
func (c *Config) Problem(key, format string, args ...any) Problem {
	return Problem{Key: key, Line: c.source.line(key), Text: c.source.scrub(fmt.Sprintf(format, args...))}
}

// line is where a key stands, or the nearest one above it.
func (s *source) line(key string) int {
	for key != "" {
		if n := s.lines[key]; n > 0 {
			return n
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// inURL is what may be a name and a password in an address.
var inURL = regexp.MustCompile(`://[^\s"]*@`)

// shortestSecret is how long a value of the environment must be to be kept out of messages; shorter ones are words and numbers.
const shortestSecret = 4

// scrub takes passwords out of a message.
func (s *source) scrub(text string) string {
	for value, name := range s.secrets {
		if len(value) >= shortestSecret {
			text = strings.ReplaceAll(text, value, name)
		}
	}
	return inURL.ReplaceAllString(text, "://…@")
}

// problems collects problems of one configuration.
type problems struct {
	of   *Config
	list Problems
}

func (p *problems) add(key, format string, args ...any) {
	p.list = append(p.list, p.of.Problem(key, format, args...))
}

func (p *problems) check(ok bool, key, format string, args ...any) {
	if !ok {
		p.add(key, format, args...)
	}
}
