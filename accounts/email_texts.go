package accounts

import (
	"html"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/mail"
)

// linkMessage returns the e-mail for a request for a link. holder is the account that has the address, or "". If the
// address cannot be used for the purpose, the e-mail says so and contains no link.
func linkMessage(server string, purpose EmailPurpose, holder id.UserID, link string) mail.Message {
	switch {
	case purpose == EmailForPassword && holder != "":
		return withLink("Reset your password on "+server,
			"Somebody has asked to reset the password of "+string(holder)+". To allow this, open the following page, and then go back to your Matrix client.",
			link, "If you did not ask for this, ignore this message: your password stays as it is.")
	case purpose == EmailForPassword:
		return withoutLink("No account on "+server+" has this e-mail address",
			"Somebody has asked to reset the password of an account on the Matrix server "+server+" and gave this e-mail address. No account there has this address.",
			"If it was you, try another address that you may have used. Otherwise ignore this message.")
	case holder != "":
		return withoutLink("This e-mail address already belongs to an account on "+server,
			"Somebody wants to use this e-mail address for an account on the Matrix server "+server+". It already belongs to the account "+string(holder)+
				", and an address can belong to only one account.",
			"If it was you, sign in as "+string(holder)+", or choose another address. If you have forgotten the password, your Matrix client can reset it with this address. "+
				"Otherwise ignore this message.")
	case purpose == EmailForAccount:
		return withLink("Confirm your e-mail address for "+server,
			"Somebody is creating an account on the Matrix server "+server+" with this e-mail address. To confirm that it is yours, open the following page, and then go back to your Matrix client.",
			link, "If it was not you, ignore this message: the address will not be used.")
	}
	return withLink("Confirm your e-mail address for "+server,
		"Somebody wants to add this e-mail address to an account on the Matrix server "+server+". To confirm that it is yours, open the following page, and then go back to your Matrix client.",
		link, "If it was not you, ignore this message: the address will not be added. Whoever has the address can reset the password of the account.")
}

const linkValidity = "The page works for one hour."

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
