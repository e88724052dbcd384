package processing

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes the record as a page. What the program cannot know is left to the administrator, in brackets.
func (r *Record) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Record of processing: the Matrix server %s\n\n", r.Server)
	fmt.Fprintf(&b, "This record was made by Ebb %s from what the program stores and from the configuration of this server. What the\nprogram cannot know is in brackets: complete it.\n\n", r.Version)
	b.WriteString("- Controller: [name and address]\n- Data protection officer: [name, or none]\n- Legal basis: [for example the contract of use, or legitimate interest]\n")
	if len(r.Contacts) == 0 {
		b.WriteString("- Contact: [an address; well_known.contacts publishes it]\n")
	}
	for _, c := range r.Contacts {
		fmt.Fprintf(&b, "- Contact: %s\n", c)
	}
	b.WriteString("\n## What is stored, why, and how long\n")
	for _, a := range r.Activities {
		fmt.Fprintf(&b, "\n### %s\n\n- Purpose: %s\n- Whose data: %s\n- Who gets them: %s\n\n| stored in | what | deleted |\n|---|---|---|\n", a.Data, a.Purpose, a.Whose, a.Recipients)
		for _, s := range a.Stores {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Name, s.Contents, s.Lifetime)
		}
	}
	b.WriteString("\n## How long messages are kept\n\n| where | how long |\n|---|---|\n")
	for _, l := range r.Messages {
		fmt.Fprintf(&b, "| %s | %s |\n", l.Rooms, l.Kept)
	}
	b.WriteString("\n## To whom data are sent\n\n| who | what |\n|---|---|\n")
	for _, one := range r.Recipients {
		fmt.Fprintf(&b, "| %s | %s |\n", cell(one.Who), cell(one.What))
	}
	b.WriteString("\nProcessors: [the host of the server and others who process data on your behalf, and where they are]\n")
	b.WriteString("\n## How data are protected\n\n")
	for _, m := range r.Measures {
		fmt.Fprintf(&b, "- %s\n", m)
	}
	b.WriteString(rights)
	_, err := io.WriteString(w, b.String())
	return err
}

// cell returns text that may come from the configuration as the content of a cell.
func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

// rights says how the rights of people are carried out.
const rights = `
## What people can ask for

- Access and a copy (articles 15 and 20): "Download my data" on the account page, or ` + "`ebb user export`" + `.
- Correction (article 16): users change their profile, addresses and settings themselves.
- Erasure (article 17): users redact their messages and close their account, with everything if they like;
  ` + "`ebb user redact`" + ` and ` + "`ebb user erase --everything`" + ` do it for them. Legal holds defer it. Other servers are asked to delete their copies.
- Restriction (article 18): ` + "`ebb user lock`" + `.
`
