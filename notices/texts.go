package notices

import (
	"encoding/json"
	"html"
	"strings"
	"time"
	"unicode"

	"ebb/mail"
	"ebb/storage"
)

// Title returns what an alert is about, in a few words.
func Title(k Kind) string {
	switch k {
	case SignedIn:
		return "New sign-in to your account"
	case PasswordChanged:
		return "Your password was changed"
	case FactorChanged:
		return "The second factors of your account were changed"
	case EmailChanged:
		return "The e-mail addresses of your account were changed"
	case IdentityChanged:
		return "The ways to sign in to your account were changed"
	case CrossSigningReset:
		return "Your digital identity was reset"
	case WrongCodes:
		return "Several wrong codes were entered for your account"
	case TokenReused:
		return "A session of your account may have been copied"
	case Recovered:
		return "An administrator's account was recovered on the host"
	}
	return "Message from the server"
}

// sentence returns a sentence that says what has happened, with the details that the user needs to judge it.
func sentence(k Kind, d Details) string {
	switch k {
	case SignedIn:
		return signInSentence(d)
	case PasswordChanged:
		return "The password of your account was changed" + during(d) + "."
	case FactorChanged, EmailChanged, IdentityChanged:
		return "What happened" + during(d) + ": " + d.What + "."
	case CrossSigningReset:
		return "The keys with which your devices and your contacts verify you were replaced" + during(d) + ". Your contacts have to verify you again."
	case WrongCodes:
		return "Somebody has entered several wrong codes of your second factor. A code is asked for only after the right password, so if it was not you, somebody else knows your password."
	case TokenReused:
		return "A token of the session on the device " + named(d) + " was used twice, as if somebody had copied it. The session has been ended for your safety."
	case Recovered:
		return "Somebody with access to the server's host has created a link with which the second factors of the administrator " + d.Account + " can be replaced."
	}
	return d.Text
}

func signInSentence(d Details) string {
	what := "Somebody has signed in to the web pages of this server"
	if d.Device != "" {
		what = "The device " + named(d) + " has signed in"
	}
	switch {
	case d.NewDevice && d.NewNetwork:
		return what + ". The device is new, and you have not signed in from this network before."
	case d.NewNetwork:
		return what + " from a network from which you have not signed in before."
	}
	return what + ". The device is new."
}

// during returns a phrase that names the session in which something was done.
func during(d Details) string {
	if d.Device == "" {
		return ""
	}
	return " in the session on the device " + named(d)
}

// named returns a device as it is shown in messages. Whoever has signed in has chosen its ID and name, and must not be
// able to put a text or an address of their own into a message of the server.
func named(d Details) string {
	if d.Name == "" {
		return plain(d.Device)
	}
	return plain(d.Device) + " (" + plain(d.Name) + ")"
}

// maxShown bounds the characters of a device ID or name in a message.
const maxShown = 40

// plain returns the letters and digits of a text, and spaces instead of everything else.
func plain(text string) string {
	out := []rune(strings.Join(strings.FieldsFunc(text, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '-' && c != '_' }), " "))
	return string(out[:min(len(out), maxShown)])
}

// Describe returns what the details of an alert say, for the page of its link.
func Describe(kind, details string) (title, text, network string) {
	d := detailsOf(details)
	return Title(Kind(kind)), sentence(Kind(kind), d), d.Network
}

func detailsOf(text string) (d Details) {
	_ = json.Unmarshal([]byte(text), &d) // the program has written it
	return d
}

const (
	ignoreAdvice    = "If this was you, there is nothing to do."
	linkAdvice      = "If this was not you, open this page. It ends the session, undoes what was added to your account since then, and makes the password unusable until you set a new one. The page works for 7 days:"
	recoveredAdvice = "If you do not know why, ask the people who have access to the host."
	moreAdvice      = "For up to an hour, you will not be notified of further events of this kind."
)

// paragraphs returns the text of a notice. link is the address of the page, or "".
func (s *Service) paragraphs(n *storage.Notice, link string) []string {
	k, d := Kind(n.Kind), detailsOf(n.Details)
	if k == Announcement {
		return []string{d.Text}
	}
	at := time.UnixMilli(n.CreatedTS).UTC().Format("2 January 2006, 15:04 MST")
	out := []string{Title(k) + ": " + n.UserID, sentence(k, d), "Time: " + at}
	switch {
	case k == Recovered:
		out = append(out, recoveredAdvice)
	case link != "":
		out = append(out, ignoreAdvice, linkAdvice, link)
	}
	if d.More {
		out = append(out, moreAdvice)
	}
	return out
}

// body returns the body of a message.
func (s *Service) body(n *storage.Notice, link string) string {
	return strings.Join(s.paragraphs(n, link), "\n\n")
}

// message returns a notice as an e-mail.
func (s *Service) message(n *storage.Notice, to, link string) mail.Message {
	all := s.paragraphs(n, link)
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n<html lang=\"en\"><body>\n")
	for _, p := range all {
		text := html.EscapeString(p)
		if p == link && link != "" {
			text = `<a href="` + text + `">` + text + `</a>`
		}
		b.WriteString("<p>" + text + "</p>\n")
	}
	b.WriteString("</body></html>\n")
	return mail.Message{To: to, Subject: Title(Kind(n.Kind)) + " on " + s.opts.Server, Text: strings.Join(all, "\n\n") + "\n", HTML: b.String()}
}
