package push

import (
	"fmt"
	"html"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/mail"
	"ebb/rooms"
	"ebb/rooms/expiry"
)

// maxDigestText bounds the characters of a message that are quoted in an e-mail.
const maxDigestText = 300

// digest is an e-mail about unread messages. They are grouped by room, and the rooms are in the order of their first
// messages.
type digest struct {
	server, to string
	countsOnly bool // do not quote messages, nor name people
	messages   int
	rooms      []*digestRoom
}

type digestRoom struct {
	id       id.RoomID
	name     string
	messages int
	lines    []digestLine
}

type digestLine struct{ sender, text string }

// add adds a message to the digest. Conversations of two people share one entry if only counts are shown, because the
// name of such a room is often that of the other person.
func (d *digest) add(r *rooms.Room, e *rooms.Event, sender string) {
	key := r.ID()
	var name string
	switch {
	case !d.countsOnly:
		name = roomName(r, "A conversation with "+oneLine(sender))
	case len(r.Members(rooms.Join, rooms.Invite)) <= expiry.MaxDirect:
		key, name = "", "Direct conversations"
	default:
		name = roomName(r, "A room without a name")
	}
	var room *digestRoom
	for _, known := range d.rooms {
		if known.id == key {
			room = known
		}
	}
	if room == nil {
		room = &digestRoom{id: key, name: name}
		d.rooms = append(d.rooms, room)
	}
	d.messages++
	room.messages++
	if !d.countsOnly {
		room.lines = append(room.lines, digestLine{sender: oneLine(sender), text: summary(e)})
	}
}

// roomName returns a display name for a room, or otherwise if the room has none.
func roomName(r *rooms.Room, otherwise string) string {
	for _, from := range [][2]string{{"m.room.name", "name"}, {"m.room.canonical_alias", "alias"}} {
		if e := r.State(from[0], ""); e != nil && e.ContentString(from[1]) != "" {
			return oneLine(e.ContentString(from[1]))
		}
	}
	return otherwise
}

// summary returns the line about an event in an e-mail.
func summary(e *rooms.Event) string {
	if e.Type() == "m.room.encrypted" {
		return "(an encrypted message)"
	}
	body := []rune(oneLine(e.ContentString("body")))
	switch {
	case e.Type() != "m.room.message" || len(body) == 0:
		return "(something that your Matrix client shows)"
	case len(body) > maxDigestText:
		return string(body[:maxDigestText]) + "…"
	}
	return string(body)
}

// oneLine removes line breaks and other control characters from a text.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\u0020' }), " ")
}

// digestEnd tells the reader how to stop the e-mails.
const digestEnd = "To stop these e-mails, turn off e-mail notifications in the settings of your Matrix client."

// message renders the digest as an e-mail. If only counts are shown, the subject names no room, since phones show
// subjects on locked screens.
func (d *digest) message() mail.Message {
	subject := fmt.Sprintf("%s on %s", unread(d.messages), d.server)
	if len(d.rooms) == 1 && !d.countsOnly {
		subject = fmt.Sprintf("%s in %s", unread(d.messages), d.rooms[0].name)
	}
	var text, page strings.Builder
	fmt.Fprintf(&text, "You have %s on %s.\n", unread(d.messages), d.server)
	fmt.Fprintf(&page, "<p>You have %s on %s.</p>\n", unread(d.messages), html.EscapeString(d.server))
	for _, room := range d.rooms {
		room.render(&text, &page, d.countsOnly)
	}
	fmt.Fprintf(&text, "\n%s\n", digestEnd)
	fmt.Fprintf(&page, "<p><small>%s</small></p>\n", digestEnd)
	return mail.Message{To: d.to, Subject: subject, Text: text.String(), HTML: page.String()}
}

func unread(n int) string {
	if n == 1 {
		return "1 unread message"
	}
	return fmt.Sprintf("%d unread messages", n)
}

// render writes what the e-mail says about the room, as text and as HTML.
func (r *digestRoom) render(text, page *strings.Builder, countsOnly bool) {
	if countsOnly {
		fmt.Fprintf(text, "\n%s: %s\n", r.name, unread(r.messages))
		fmt.Fprintf(page, "<p><strong>%s</strong>: %s</p>\n", html.EscapeString(r.name), unread(r.messages))
		return
	}
	fmt.Fprintf(text, "\n%s\n", r.name)
	fmt.Fprintf(page, "<h3>%s</h3>\n", html.EscapeString(r.name))
	for _, line := range r.lines {
		fmt.Fprintf(text, "  %s: %s\n", line.sender, line.text)
		fmt.Fprintf(page, "<p><strong>%s</strong>: %s</p>\n", html.EscapeString(line.sender), html.EscapeString(line.text))
	}
}
