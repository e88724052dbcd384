package clientapi

import (
	"net/http"

	"ebb/httpapi"
	"ebb/mxerr"
)

// Accounts of this server have no email addresses or phone numbers, and none can be added. The operations that would
// send a code to one return the specified error.

// thirdPartyTokens returns the routes of the operations below a path prefix that request a code.
func thirdPartyTokens(base, file, email, msisdn string, h func(*httpapi.Request) (any, error)) []httpapi.Route {
	return []httpapi.Route{
		{Method: "POST", Path: clientV3 + base + "/email/requestToken", Aliases: []string{clientR0 + base + "/email/requestToken"}, OperationID: email, File: file, Rate: httpapi.Anonymous, Handler: h},
		{Method: "POST", Path: clientV3 + base + "/msisdn/requestToken", Aliases: []string{clientR0 + base + "/msisdn/requestToken"}, OperationID: msisdn, File: file, Rate: httpapi.Anonymous, Handler: h},
	}
}

// tokenRequest checks the parameters that all of these operations require.
func tokenRequest(r *httpapi.Request) error {
	var body struct {
		ClientSecret string `json:"client_secret"`
		SendAttempt  *int   `json:"send_attempt"`
	}
	if err := r.Decode(&body); err != nil {
		return err
	}
	switch {
	case body.ClientSecret == "":
		return missing("client_secret")
	case body.SendAttempt == nil:
		return missing("send_attempt")
	}
	return nil
}

// denyThirdParty refuses an email address or phone number for registration.
// Spec: client-server-api#post_matrixclientv3registeremailrequesttoken
func (a *API) denyThirdParty(r *httpapi.Request) (any, error) {
	if err := tokenRequest(r); err != nil {
		return nil, err
	}
	return nil, mxerr.New(http.StatusForbidden, "M_THREEPID_DENIED", "This server does not support email addresses or phone numbers")
}

// unknownThirdParty returns the error that no account has the given email address or phone number.
// Spec: client-server-api#post_matrixclientv3accountpasswordemailrequesttoken
func (a *API) unknownThirdParty(r *httpapi.Request) (any, error) {
	if err := tokenRequest(r); err != nil {
		return nil, err
	}
	return nil, mxerr.New(http.StatusBadRequest, "M_THREEPID_NOT_FOUND", "No account on this server has this address")
}
