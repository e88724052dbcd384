package accounts

import (
	"html"
	"strings"

	"ebb/mail"
)

// linkMessage returns the e-mail for a request for a link. holder is the account that has the address. If the address
// cannot be used for the purpose, the e-mail says so and contains no link.
func linkMessage(server string, purpose EmailPurpose, holder emailHolder, link string) mail.Message {
	user := string(holder.user)
	switch {
	case purpose == EmailForPassword && user == "":
		return withoutLink("No account on "+server+" has this e-mail address",
			"Somebody has asked to reset the password of an account on the Matrix server "+server+" and has entered this e-mail address, but no account there has it.",
			"If it was you, try another address that you may have used. Otherwise you can ignore this message.")
	case purpose == EmailForPassword && holder.service != "":
		return withoutLink("The password of "+user+" cannot be reset by "+server,
			"Somebody has asked to reset the password of "+user+". This account has no password on "+server+": you sign in with "+holder.service+".",
			"If it was you, reset your password there, and then sign in as usual. Otherwise you can ignore this message.")
	case purpose == EmailForPassword:
		return withLink("Reset your password on "+server,
			"Somebody has asked to reset the password of "+user+". If it was you, open this page, press Allow, and then set a new password in the window or client in which you asked for this message:",
			link, "If it was not you, ignore this message: your password stays as it is.")
	case user != "":
		return withoutLink("This e-mail address already belongs to an account on "+server,
			"Somebody wants to use this e-mail address for an account on the Matrix server "+server+". It already belongs to the account "+user+", and an address can belong to only one account.",
			"If it was you, sign in as "+user+", or choose another address. If you have forgotten the password, you can set a new one when you sign in. Otherwise you can ignore this message.")
	case purpose == EmailForAccount:
		return withLink("Confirm your e-mail address for "+server,
			"Somebody is creating an account on the Matrix server "+server+" with this e-mail address. If it is you, open this page, press Confirm, and then continue in the window or client in which you are creating the account:",
			link, "If it is not you, ignore this message: the address will not be used.")
	}
	return withLink("Confirm your e-mail address for "+server,
		"Somebody wants to add this e-mail address to an account on the Matrix server "+server+". If it is you, open this page, press Confirm, and then continue in the window or client in which you are adding it:",
		link, "If it is not you, ignore this message: the address will not be added.")
}

const linkValidity = "The link works for one hour."

func withLink(subject, what, link, otherwise string) mail.Message {
	e := html.EscapeString
	return mail.Message{
		Subject: subject,
		Text:    strings.Join([]string{"Hello,", what, link, linkValidity, otherwise, ""}, "\n\n"),
		HTML: "<!DOCTYPE html>\n<html lang=\"en\"><body>\n<p>Hello,</p>\n<p>" + e(what) + "</p>\n<p><a href=\"" + e(link) + "\">" + e(link) + "</a></p>\n<p>" +
			linkValidity + "</p>\n<p>" + e(otherwise) + "</p>\n</body></html>\n",
	}
}

func withoutLink(subject, what, otherwise string) mail.Message {
	return mail.Message{Subject: subject, Text: strings.Join([]string{"Hello,", what, otherwise, ""}, "\n\n")}
}
