// Package specindex reads docs/spec-index.txt, which lists for every operation whether Ebb serves it and which test
// proves that. It finds disagreements between the page and the route tables, the OpenAPI files and the existing tests.
//
// A line of the page has the form operationId METHOD PATH Yes|Partial|No TEST NOTE…, separated by blanks; TEST is - if
// there is none. The first section lists the operations of the OpenAPI files, the second those that Ebb serves in
// addition.
package specindex

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// The headings of the two sections.
const (
	specSection   = "[specification]"
	beyondSection = "[beyond]"
)

// Status is the degree to which an operation is supported.
type Status string

// The possible statuses.
const (
	Yes     Status = "Yes"
	Partial Status = "Partial"
	No      Status = "No"
)

// Operation is an operation of an OpenAPI file or of a route table.
type Operation struct {
	ID     string // operationId
	Method string
	Path   string // the complete template: /_matrix/client/v3/rooms/{roomId}/…
	File   string // for example client-server/room_send.yaml; "" if the operation is not in the specification
}

// Entry is one line of the page.
type Entry struct {
	Operation
	Status Status
	Test   string // DIRECTORY.TestName or test/sdk/FILE.mjs, or "" for none
	Note   string
	Beyond bool // whether the entry belongs to the second section
	Line   int
}

// Index is the complete page.
type Index struct{ Entries []Entry }

// key returns the method and the path of an operation, without the names of the path's variables.
func (o Operation) key() string { return o.Method + " " + unnamed(o.Path) }

func (e Entry) String() string {
	return fmt.Sprintf("line %d (%s %s %s)", e.Line, e.ID, e.Method, e.Path)
}

// outgoing reports whether the operation belongs to an API that Ebb uses but does not serve.
func (e Entry) outgoing() bool {
	return strings.HasPrefix(e.Path, "/_matrix/app/") || strings.HasPrefix(e.Path, "/_matrix/push/")
}

// unnamed removes the names of the variables from a path template.
func unnamed(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = "{}"
		}
	}
	return strings.Join(segments, "/")
}

// Parse parses the page. Its errors include the line number.
func Parse(r io.Reader) (*Index, error) {
	index, section, file, seen := &Index{}, "", "", map[string]int{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		switch {
		case text == specSection || text == beyondSection:
			section = text
			continue
		case strings.HasPrefix(text, "## "):
			file = strings.TrimPrefix(text, "## ")
			continue
		case text == "" || text[0] == '#':
			continue
		}
		e, err := parseLine(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		e.Line, e.Beyond = n, section == beyondSection
		if section == specSection {
			e.File = file
		}
		if section == "" {
			return nil, fmt.Errorf("line %d stands before the first section", n)
		}
		key := e.ID + " " + e.key()
		if first, twice := seen[key]; twice {
			return nil, fmt.Errorf("line %d repeats line %d: %s", n, first, key)
		}
		seen[key] = n
		index.Entries = append(index.Entries, e)
	}
	return index, lines.Err()
}

func parseLine(text string) (e Entry, err error) {
	words := strings.Fields(text)
	if len(words) < 5 {
		return e, fmt.Errorf("%q has %d words, needs operationId METHOD PATH Yes|Partial|No TEST", text, len(words))
	}
	e.ID, e.Method, e.Path, e.Status = words[0], words[1], words[2], Status(words[3])
	if words[4] != "-" {
		e.Test = words[4]
	}
	e.Note = strings.Join(words[5:], " ")
	switch {
	case e.Status != Yes && e.Status != Partial && e.Status != No:
		return e, fmt.Errorf("%s is neither Yes nor Partial nor No", e.Status)
	case strings.ToUpper(e.Method) != e.Method || !strings.HasPrefix(e.Path, "/"):
		return e, fmt.Errorf("%s %s is no method and path", e.Method, e.Path)
	case e.Status == Yes && e.Test == "":
		return e, fmt.Errorf("%s says Yes without a test", e.ID)
	case e.Status == Partial && (e.Test == "" || e.Note == ""):
		return e, fmt.Errorf("%s says Partial, which needs a test and a note of what is missing", e.ID)
	}
	return e, nil
}

const header = `# Which operations of Matrix v1.19 Ebb serves. Identity service operations are out of scope.
# operationId METHOD PATH Yes|Partial|No TEST NOTE
# A Yes or Partial names the test of its effect; - is none. Checked against the routes, the tests and, where
# MATRIX_SPEC_DIR is set, the OpenAPI files. Operations below /_matrix/app and /_matrix/push are requests that Ebb makes.
# go test ./internal/specindex -update puts the page into order.
`

// Write writes the page with the entries in their order. Columns are aligned within the group of each file.
func (x *Index) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString(header)
	for _, beyond := range []bool{false, true} {
		section := specSection
		if beyond {
			section = beyondSection
		}
		b.WriteString("\n" + section + "\n")
		x.writeSection(&b, beyond)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (x *Index) writeSection(b *strings.Builder, beyond bool) {
	file := ""
	for i, e := range x.Entries {
		if e.Beyond != beyond {
			continue
		}
		if e.File != file {
			file = e.File
			b.WriteString("\n## " + file + "\n")
		}
		id, path := x.widths(i)
		test := e.Test
		if test == "" {
			test = "-"
		}
		line := fmt.Sprintf("%-*s %-6s %-*s %-7s %s %s", id, e.ID, e.Method, path, e.Path, e.Status, test, e.Note)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// widths returns the lengths of the longest operationId and the longest path in the group of entry i.
func (x *Index) widths(i int) (id, path int) {
	for _, e := range x.Entries {
		if e.File == x.Entries[i].File && e.Beyond == x.Entries[i].Beyond {
			id, path = max(id, len(e.ID)), max(path, len(e.Path))
		}
	}
	return id, path
}
