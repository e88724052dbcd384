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

	"error.title":   "That did not work",
	"error.csrf":    "This form is too old, or was opened by another website. Go back to your client and start again.",
	"error.second":  "This account needs a second factor, which these pages cannot ask for yet. Ask the administrator of this server.",
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
