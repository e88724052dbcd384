package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Problem is a mistake or a dangerous setting in a configuration.
type Problem struct {
	Key  string // for example listen[0].tls; "" for the file as a whole
	Line int    // line in the file; 0 if the key is not in the file
	Text string
}

// String returns the problem with its key and line.
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

// Problems lists the problems of a configuration. Its error text has one line for each.
type Problems []Problem

// Error implements error.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns the problems as an error, or nil if there are none.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// Sort sorts problems by their line in the file.
func (p Problems) Sort() {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), strings.Compare(a.Key, b.Key))
	})
}

// source records where the values of a configuration came from, for messages.
type source struct {
	lines   map[string]int    // lines in the file by key
	secrets map[string]string // the references to environment variables in the file, by value of the variable
}

// Problem returns a problem with a key. It removes passwords from the text.
func (c *Config) Problem(key, format string, args ...any) Problem {
	return Problem{Key: key, Line: c.source.line(key), Text: c.source.scrub(fmt.Sprintf(format, args...))}
}

// line returns the line of a key, or of its nearest parent that is in the file.
func (s *source) line(key string) int {
	for key != "" {
		if n := s.lines[key]; n > 0 {
			return n
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// inURL matches the part of a URL that may be a user name and a password.
var inURL = regexp.MustCompile(`://[^\s"]*@`)

// shortestSecret is the minimum length of environment values that are removed from messages. Shorter values are likely
// to be words or numbers.
const shortestSecret = 4

// scrub removes passwords from a message.
func (s *source) scrub(text string) string {
	for value, name := range s.secrets {
		if len(value) >= shortestSecret {
			text = strings.ReplaceAll(text, value, name)
		}
	}
	return inURL.ReplaceAllString(text, "://…@")
}

// problems collects the problems of a configuration.
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
