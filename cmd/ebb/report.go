package main

import (
	"fmt"
	"io"
	"strings"

	"ebb/adminapi"
)

var reportListCommand = listCommand("report list", "list what users have reported", func(w io.Writer, r adminapi.Report) {
	subject := "room " + string(r.Room)
	switch {
	case r.Event != "":
		subject = fmt.Sprintf("event %s of %s in %s", r.Event, r.User, r.Room)
	case r.User != "":
		subject = "user " + string(r.User)
	}
	fmt.Fprintf(w, "%s  %s reports %s: %s\n", r.Time.Local().Format("2006-01-02 15:04"), r.Reporter, subject, oneLine(r.Reason))
	if len(r.Profile) > 0 {
		fmt.Fprintf(w, "    %s\n", oneLine(string(r.Profile)))
	}
	for _, c := range r.Content {
		fmt.Fprintf(w, "    %s\n", oneLine(string(c)))
	}
})

// oneLine returns text, quoted if it would not fit on one line.
func oneLine(text string) string {
	if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c >= 0x7f && c < 0xa0 }) {
		return fmt.Sprintf("%q", text)
	}
	return text
}
