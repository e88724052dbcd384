package adminapi

import (
	"context"
	"errors"
	"net/http"

	"ebb/mail"
	"ebb/mxerr"
)

// EmailArgs are the arguments of the command "email test".
type EmailArgs struct {
	To string `json:"to"`
}

// emailTest sends an e-mail to test the settings in email.smtp.
func (a *API) emailTest(ctx context.Context, args EmailArgs) (any, error) {
	if a.Mail == nil {
		return nil, mxerr.InvalidParam("This server sends no e-mail: email.smtp.host is not set")
	}
	server := a.Config.ServerName
	err := a.Mail.Send(ctx, mail.Message{
		To: args.To, Subject: "Test message from " + server,
		Text: "Hello,\n\nan administrator of the Matrix server " + server + " has sent this message to check that it can send e-mail.\n" +
			"It can. There is nothing else to do.\n",
	})
	switch {
	case errors.Is(err, mail.ErrAddress):
		return nil, mxerr.InvalidParam("%.254q is not an e-mail address such as alice@example.org", args.To)
	case err != nil: // the administrator may see the cause
		return nil, mxerr.New(http.StatusFailedDependency, mxerr.CodeUnknown, "The message could not be sent: %v", err)
	}
	return struct{}{}, nil
}
