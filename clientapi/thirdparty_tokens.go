package clientapi

import (
	"ebb/accounts"
	"ebb/httpapi"
)

// thirdPartyTokens returns the routes of the operations below base that verify an e-mail address or a telephone number.
func (a *API) thirdPartyTokens(base, file, email, msisdn string, purpose accounts.EmailPurpose) []httpapi.Route {
	route := func(medium, operation string, h func(*httpapi.Request) (any, error)) httpapi.Route {
		path := base + "/" + medium + "/requestToken"
		return httpapi.Route{Method: "POST", Path: clientV3 + path, Aliases: []string{clientR0 + path}, OperationID: operation, File: file, Rate: httpapi.Anonymous, Handler: h}
	}
	return []httpapi.Route{
		route("email", email, func(r *httpapi.Request) (any, error) { return a.requestEmail(r, purpose) }),
		route("msisdn", msisdn, a.refusePhoneNumber),
	}
}

// requestEmail sends a verification link to an e-mail address.
// Spec: client-server-api#post_matrixclientv3registeremailrequesttoken
//
// Deviation: after the verification, the page shows next_link and does not redirect to it.
func (a *API) requestEmail(r *httpapi.Request, purpose accounts.EmailPurpose) (any, error) {
	var body struct {
		ClientSecret string `json:"client_secret"`
		Email        string `json:"email"`
		SendAttempt  *int64 `json:"send_attempt"`
		NextLink     string `json:"next_link"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.ClientSecret == "":
		return nil, missing("client_secret")
	case body.SendAttempt == nil:
		return nil, missing("send_attempt")
	case body.Email == "":
		return nil, missing("email")
	}
	sid, err := a.Accounts.RequestEmail(r.Context(), accounts.EmailRequest{
		Purpose: purpose, Address: body.Email, ClientSecret: body.ClientSecret, SendAttempt: *body.SendAttempt, NextLink: body.NextLink, Network: r.Network(),
	})
	return map[string]string{"sid": sid}, err
}

// refusePhoneNumber returns the error for telephone numbers, which Ebb does not support.
// Spec: client-server-api#post_matrixclientv3registermsisdnrequesttoken
func (a *API) refusePhoneNumber(r *httpapi.Request) (any, error) {
	var body struct {
		ClientSecret string `json:"client_secret"`
		SendAttempt  *int64 `json:"send_attempt"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.ClientSecret == "":
		return nil, missing("client_secret")
	case body.SendAttempt == nil:
		return nil, missing("send_attempt")
	}
	return nil, accounts.RefusePhoneNumber()
}
