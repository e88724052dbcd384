// Package processing makes the record of processing of a server, as article 30 of the GDPR wants it: what is stored
// about people, why, how long, who gets it, and how it is protected. What the program stores it reads from
// docs/storage.md, so that the record cannot differ from the documentation, which tests compare with the database; the
// rest follows from the configuration.
package processing

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"ebb/config"
)

// Record is a record of processing.
type Record struct {
	Server     string      `json:"server"`
	Version    string      `json:"version"` // of the program
	Contacts   []string    `json:"contacts"`
	Activities []Activity  `json:"activities"`
	Messages   []Lifetime  `json:"message_lifetimes"`
	Recipients []Recipient `json:"recipients"`
	Measures   []string    `json:"measures"`
}

// Activity is one kind of data and what it is for.
type Activity struct {
	Data       string  `json:"data"`
	Purpose    string  `json:"purpose"`
	Whose      string  `json:"whose"`
	Recipients string  `json:"recipients"`
	Stores     []Store `json:"stores"`
}

// Store is a table or a file.
type Store struct {
	Name     string `json:"name"`
	Contents string `json:"contents"`
	Lifetime string `json:"lifetime"` // what deletes it
}

// Lifetime says how long messages are kept in a kind of room.
type Lifetime struct {
	Rooms string `json:"rooms"`
	Kept  string `json:"kept"`
}

// Recipient is somebody to whom the server sends data.
type Recipient struct {
	Who  string `json:"who"`
	What string `json:"what"`
}

// New returns the record of a server with the given configuration. page is docs/storage.md.
func New(page, version string, cfg *config.Config) (*Record, error) {
	r := &Record{Server: cfg.ServerName, Version: version, Contacts: contacts(cfg), Messages: messages(cfg.Retention), Recipients: recipients(cfg), Measures: measures(cfg)}
	stores := map[string]Store{}
	for _, row := range storeRow.FindAllStringSubmatch(page, -1) {
		name := row[1]
		if _, twice := stores[name]; twice {
			return nil, fmt.Errorf("docs/storage.md lists %s twice", name)
		}
		stores[name] = Store{Name: name, Contents: withValues(row[2], cfg), Lifetime: withValues(row[3], cfg)}
	}
	_, section, _ := strings.Cut(page, "\n"+purposes+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, row := range activityRow.FindAllStringSubmatch(section, -1) {
		a := Activity{Data: row[1], Purpose: row[2], Whose: row[3], Recipients: row[4]}
		for _, name := range quoted.FindAllStringSubmatch(row[5], -1) {
			s, found := stores[name[1]]
			if !found {
				return nil, fmt.Errorf("docs/storage.md has no purpose, or two, for %s", name[1])
			}
			delete(stores, name[1])
			a.Stores = append(a.Stores, s)
		}
		r.Activities = append(r.Activities, a)
	}
	if len(r.Activities) == 0 {
		return nil, errors.New("docs/storage.md does not say what data are for")
	}
	for name := range stores {
		return nil, fmt.Errorf("docs/storage.md does not say what %s is for", name)
	}
	return r, nil
}

// purposes is the heading of the section of docs/storage.md about purposes.
const purposes = "## What it is for"

var (
	storeRow    = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*) \\| ([^|]*) \\|$")
	activityRow = regexp.MustCompile("(?m)^\\| ([^|`-][^|]*) \\| ([^|]*) \\| ([^|]*) \\| ([^|]*) \\| (`[^|]*) \\|$")
	quoted      = regexp.MustCompile("`([^`]+)`")
	settingName = regexp.MustCompile("`([a-z_]+(?:\\.[a-z_]+)+)`")
)

// unlimited lists the settings in which 0 means for ever.
var unlimited = []string{
	"audit.keep", "audit.keep_addresses", "login.idle_lifetime", "oauth.idle_lifetime", "oauth.session_lifetime", "reports.keep", "media.unused_lifetime", "backup.keep",
}

// withValues adds its value to every setting in a text.
func withValues(text string, cfg *config.Config) string {
	return settingName.ReplaceAllStringFunc(text, func(quoted string) string {
		key := strings.Trim(quoted, "`")
		value, found := cfg.Value(key)
		if !found {
			return quoted
		}
		shown := fmt.Sprint(value)
		if d, ok := value.(config.Duration); ok {
			shown = d.String()
			if d == 0 && slices.Contains(unlimited, key) {
				shown = "for ever"
			}
		}
		return fmt.Sprintf("%s (here: %s)", quoted, shown)
	})
}

func contacts(cfg *config.Config) (out []string) {
	for _, c := range cfg.WellKnown.Contacts {
		var parts []string
		for _, part := range []string{c.EmailAddress, c.MatrixID} {
			if part != "" {
				parts = append(parts, part)
			}
		}
		out = append(out, strings.Join(parts, ", ")+" ("+c.Role+")")
	}
	if cfg.WellKnown.SupportPage != "" {
		out = append(out, cfg.WellKnown.SupportPage)
	}
	return out
}

// messages says how long messages are kept in each kind of room.
func messages(r config.Retention) []Lifetime {
	kept := func(l config.Lifetimes) string {
		if l.MaxLifetime == nil {
			return "without limit"
		}
		return l.MaxLifetime.String()
	}
	out := []Lifetime{{"rooms without a policy of their own, unless another row applies", kept(r.Default)}}
	for _, kind := range []struct {
		rooms string
		of    config.Lifetimes
	}{
		{"public rooms", r.Public}, {"conversations of two people", r.Direct}, {"encrypted rooms", r.Encrypted}, {"private rooms", r.Private},
	} {
		if kind.of.MaxLifetime != nil || kind.of.MinLifetime != nil {
			out = append(out, Lifetime{kind.rooms, kept(kind.of)})
		}
	}
	own := "as the room says"
	if limit := r.Limits.MaxLifetime; limit.Max != nil {
		own += ", at most " + limit.Max.String()
	}
	return append(out, Lifetime{"rooms with a policy of their own", own},
		Lifetime{"expired and deleted messages, on disk", fmt.Sprintf("until the next purge (every %s), or for %s if they expired in a way that may be a mistake", r.PurgeInterval, r.PurgeDelay)})
}
