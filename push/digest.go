package push

import (
	"fmt"
	"html"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/mail"
	"ebb/rooms"
)

// maxDigestText bounds the characters of a message that are quoted in an e-mail.
const maxDigestText = 300

// digest is an e-mail about unread messages. They are grouped by room, and the rooms are in the order of their first
// messages.
type digest struct {
	server, to string
	messages   int
	rooms      []*digestRoom
}

type digestRoom struct {
	id    id.RoomID
	name  string
	lines []digestLine
}

type digestLine struct{ sender, text string }

// add adds a message to the digest.
func (d *digest) add(r *rooms.Room, e *rooms.Event, sender string) {
	var room *digestRoom
	for _, known := range d.rooms {
		if known.id == r.ID() {
			room = known
		}
	}
	if room == nil {
		room = &digestRoom{id: r.ID(), name: roomName(r, sender)}
		d.rooms = append(d.rooms, room)
	}
	d.messages++
	room.lines = append(room.lines, digestLine{sender: oneLine(sender), text: summary(e)})
}

// roomName returns a display name for a room. sender is the sender of its newest message.
func roomName(r *rooms.Room, sender string) string {
	for _, from := range [][2]string{{"m.room.name", "name"}, {"m.room.canonical_alias", "alias"}} {
		if e := r.State(from[0], ""); e != nil && e.ContentString(from[1]) != "" {
			return oneLine(e.ContentString(from[1]))
		}
	}
	return "A conversation with " + oneLine(sender)
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

// message renders the digest as an e-mail.
func (d *digest) message() mail.Message {
	unread := "1 unread message"
	if d.messages > 1 {
		unread = fmt.Sprintf("%d unread messages", d.messages)
	}
	subject := fmt.Sprintf("%s on %s", unread, d.server)
	if len(d.rooms) == 1 {
		subject = fmt.Sprintf("%s in %s", unread, d.rooms[0].name)
	}
	var text, page strings.Builder
	fmt.Fprintf(&text, "You have %s on %s.\n", unread, d.server)
	fmt.Fprintf(&page, "<p>You have %s on %s.</p>\n", unread, html.EscapeString(d.server))
	for _, room := range d.rooms {
		fmt.Fprintf(&text, "\n%s\n", room.name)
		fmt.Fprintf(&page, "<h3>%s</h3>\n", html.EscapeString(room.name))
		for _, line := range room.lines {
			fmt.Fprintf(&text, "  %s: %s\n", line.sender, line.text)
			fmt.Fprintf(&page, "<p><strong>%s</strong>: %s</p>\n", html.EscapeString(line.sender), html.EscapeString(line.text))
		}
	}
	fmt.Fprintf(&text, "\n%s\n", digestEnd)
	fmt.Fprintf(&page, "<p><small>%s</small></p>\n", digestEnd)
	return mail.Message{To: d.to, Subject: subject, Text: text.String(), HTML: page.String()}
}
