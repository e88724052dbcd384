package web

import "fmt"

// english has all texts of the pages, by name. %s is what a page inserts.
var english = map[string]string{
	"lang": "en",

	"signin.title":    "Sign in",
	"signin.client":   "%s wants to use your account on %s.",
	"signin.device":   "Sign in to %s to connect a device.",
	"signin.name":     "User name",
	"signin.password": "Password",
	"signin.button":   "Sign in",
	"signin.restart":  "Use another account",

	"signin.forgot": "Forgotten your password?",
	"signin.create": "Create an account",

	"signup.closed": "New accounts cannot be created here: ask the administrator of this server for one. If you have an account, sign in.",
	"up.title":      "Create an account",
	"up.name":       "Others reach you as @name:%s. Small letters, digits and . _ = - / + are possible, and the name cannot be changed later.",
	"up.again":      "Password again",
	"up.differ":     "The two passwords are not the same.",
	"up.token":      "Registration token",
	"up.token.hint": "The administrator of this server, or the person who has invited you, has it.",
	"up.terms":      "I accept:",
	"up.button":     "Create the account",
	"up.in":         "I have an account",
	"up.email":      "With your e-mail address you can set a new password if you forget it. You confirm it with a link that is sent to you.",
	"up.sent":       "Open the link in the e-mail that you have just been sent, and then continue here. It works for an hour.",

	"email.title":    "Look into your mailbox",
	"email.address":  "E-mail address",
	"email.send":     "Send me a link",
	"email.skip":     "Continue without an address",
	"email.continue": "I have opened the link",
	"email.other":    "Use another address, or send the link again",
	"email.not":      "The link has not been opened yet, or has expired. Open it in the e-mail, and then continue here.",

	"reset.title":      "Set a new password",
	"reset.email":      "Enter an e-mail address of your account. If an account has it, a link is sent there with which you can set a new password.",
	"reset.sent":       "If an account has this address, an e-mail with a link is on its way. Open the link, and then continue here. It works for an hour.",
	"reset.everywhere": "Sign out all my devices",
	"reset.keys":       "If somebody else may know the password, leave this on. Devices that are signed out lose their keys to encrypted messages, which the recovery key brings back.",
	"reset.button":     "Set the password",
	"reset.done":       "The password is set",
	"reset.factor":     "Sign in with it. If the account has a second factor, you still need that: an e-mail does not replace it.",

	"passkey.button": "Sign in with a passkey",
	"passkey.failed": "The browser has got no passkey. Try it again, or sign in another way.",
	"passkey.script": "To use a passkey, allow this page to run its script (JavaScript).",

	"second.title":           "Confirm that it is you",
	"second.code":            "One-time code",
	"second.hint":            "Your authenticator app shows it: 6 digits, which change every 30 seconds.",
	"second.button":          "Continue",
	"second.lost":            "Use a recovery code",
	"second.recovery":        "Recovery code",
	"second.recovery.hint":   "One of the codes that you saved when you set up the second factor. Each works once.",
	"second.recovery.button": "Use this code",

	"recent.title": "Confirm that it is you",
	"recent.lead":  "What comes next needs a recent sign-in.",

	"factor.choose":   "Set up a second factor",
	"factor.required": "This server requires more than a password. With a second factor, nobody who learns your password can sign in.",
	"factor.by.link":  "An administrator of this server has sent you this link. What you set up here replaces all second factors and recovery codes of the account. It does not give access to encrypted messages from before: for these you need the recovery key of your Matrix client, or a device that is still signed in.",
	"factor.passkey":  "Passkey",
	"factor.about":    "Your phone, your computer or a security key signs you in, with a finger, your face or a PIN. It cannot be used on a fake page.",
	"factor.name":     "Name of the passkey",
	"factor.example":  "for example the device that it is on",
	"factor.create":   "Create a passkey",
	"factor.refused":  "The browser has made no passkey. Try it again, or use an authenticator app.",
	"factor.app":      "Authenticator app",
	"factor.codes":    "An app on your phone shows a one-time code that you enter after your password.",
	"factor.use":      "Use an authenticator app",
	"factor.until":    "You can do this later, until %s. After that only an administrator can let you in.",
	"factor.later":    "Not now",
	"factor.done":     "The second factor is set up",
	"factor.signin":   "You can now sign in with it in your Matrix client.",

	"totp.title":   "Set up the authenticator app",
	"totp.scan":    "Scan this picture with an authenticator app.",
	"totp.picture": "QR code with the secret for the authenticator app",
	"totp.same":    "If the app is on this device, open it with this link",
	"totp.type":    "or type this secret into the app:",
	"totp.code":    "Code that the app shows now",
	"totp.button":  "Confirm",

	"codes.title":  "Save your recovery codes",
	"codes.lead":   "If you lose your second factor, one of these codes lets you in instead. Each works once. They are shown only now: print them, or save them where nobody else finds them.",
	"codes.copy":   "Copy",
	"codes.copied": "Copied",
	"codes.print":  "Print",
	"codes.saved":  "I have saved them",
	"codes.for":    "Recovery codes for %s",

	"factor.title": "A second factor is required",
	"factor.link":  "This server requires a second factor, and the time in which you could set one up yourself is over. Ask an administrator of this server for a link.",

	"consent.title":    "Allow access?",
	"consent.ask":      "%s wants to use your account:",
	"consent.rights":   "It can read and send messages as you, and change your account.",
	"consent.redirect": "You continue at",
	"consent.client":   "Website",
	"consent.device":   "Device ID",
	"consent.warning":  "Allow this only if you have just started signing in there.",
	"consent.allow":    "Allow",
	"consent.deny":     "Cancel",
	"consent.other":    "Use another account",
	"consent.terms":    "Terms of service",
	"consent.policy":   "Privacy policy",

	"link.title":   "Connect a device",
	"link.ask":     "Enter the code that your device shows.",
	"link.code":    "Code",
	"link.button":  "Continue",
	"link.address": "Address of the device",
	"link.shown":   "Code on the device",
	"link.warning": "Allow this only if your own device shows this code now. Somebody who sent you the code would get access to your account.",
	"link.done":    "The device is connected",
	"link.return":  "You can close this page and return to the device.",
	"link.denied":  "Access was denied",
	"link.closed":  "The device has not got access to your account. You can close this page.",

	"sso.warning":  "Allow this only if you have just started signing in there. Whoever runs that website or application gets access to your account.",
	"sso.closed":   "You can close this page and go back to your client.",
	"sso.provider": "This server has no such identity provider. Go back to your client and sign in without it.",

	// The page behind the link of an alert.
	"notme.network":  "Network",
	"notme.was":      "If this was you, close this page: nothing happens.",
	"notme.effects":  "If this was not you, press the button. Then:",
	"notme.session":  "The session ends, with all that began after it, and all browsers are signed out of this server's pages.",
	"notme.added":    "Second factors and e-mail addresses that have been added to the account since then are removed.",
	"notme.password": "The password can no longer be used, since somebody else may know it.",
	"notme.email":    "You can set a new one with “Forgot password” in your client, by e-mail.",
	"notme.passkey":  "You can set a new one after signing in with your passkey.",
	"notme.either":   "You can set a new one with “Forgot password” in your client, by e-mail, or after signing in with your passkey.",
	"notme.admin":    "Ask the administrator of this server to set a new one.",
	"notme.button":   "This was not me",
	"notme.done":     "The session has ended",
	"notme.ended":    "The session and all later ones have ended, what was added to your account since then was removed, and the old password cannot be used any more.",
	"notme.check":    "Then look at the list of your sessions, and sign out those that you do not know.",

	"error.title":   "That did not work",
	"error.csrf":    "This form is too old, or was opened by another website. Go back to your client and start again.",
	"error.state":   "This form is not up to date: something has changed in another window. Continue here.",
	"error.changed": "The account has just changed: sign in again.",
	"error.off":     "This server has no such page.",
	"footer.server": "Account on %s",
}

// text returns a text with values inserted. An unknown name is an error, which tests of the pages find.
func text(name string, values ...any) (string, error) {
	format, found := english[name]
	if !found {
		return "", fmt.Errorf("web: there is no text %q", name)
	}
	return fmt.Sprintf(format, values...), nil
}
