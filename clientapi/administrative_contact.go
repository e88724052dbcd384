package clientapi

import (
	"net/http"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) administrativeContactRoutes() []httpapi.Route {
	const file = "administrative_contact.yaml"
	route := func(method, path, operation string, rate httpapi.Rate, h func(*httpapi.Request) (any, error)) httpapi.Route {
		path = "/account/3pid" + path
		return httpapi.Route{Method: method, Path: clientV3 + path, Aliases: []string{clientR0 + path}, OperationID: operation, File: file, Auth: httpapi.User, Rate: rate, Handler: h}
	}
	return append(a.thirdPartyTokens("/account/3pid", file, "requestTokenTo3PIDEmail", "requestTokenTo3PIDMSISDN", accounts.EmailToAdd), []httpapi.Route{
		route("GET", "", "getAccount3PIDs", httpapi.Reads, a.getAccount3PIDs),
		route("POST", "", "post3PIDs", httpapi.Sends, a.post3PIDs),
		route("POST", "/add", "add3PID", httpapi.Sends, a.add3PID),
		route("POST", "/bind", "bind3PID", httpapi.Sends, a.bind3PID),
		route("POST", "/unbind", "unbind3pidFromAccount", httpapi.Sends, a.unbind3pidFromAccount),
		route("POST", "/delete", "delete3pidFromAccount", httpapi.Sends, a.delete3pidFromAccount),
	}...)
}

// getAccount3PIDs lists the e-mail addresses of the account.
// Spec: client-server-api#get_matrixclientv3account3pid
func (a *API) getAccount3PIDs(r *httpapi.Request) (any, error) {
	type threepid struct {
		Medium      string `json:"medium"`
		Address     string `json:"address"`
		AddedAt     int64  `json:"added_at"`
		ValidatedAt int64  `json:"validated_at"`
	}
	emails, err := a.Accounts.Emails(r.Context(), r.UserNID)
	list := make([]threepid, len(emails))
	for i, e := range emails {
		list[i] = threepid{"email", e.Address, e.Added.UnixMilli(), e.Validated.UnixMilli()}
	}
	return map[string][]threepid{"threepids": list}, err
}

// add3PID adds a verified e-mail address to the account.
// Spec: client-server-api#post_matrixclientv3account3pidadd
func (a *API) add3PID(r *httpapi.Request) (any, error) {
	var creds accounts.EmailCredentials
	if err := r.Decode(&creds); err != nil {
		return nil, err
	}
	return nil, a.addEmail(r, "add3PID", creds)
}

// addEmail adds a verified e-mail address to the account. It requires the password, because whoever can read the mail
// sent to the address can take over the account.
func (a *API) addEmail(r *httpapi.Request, operation string, creds accounts.EmailCredentials) error {
	if _, err := a.Accounts.CheckEmail(r.Context(), creds); err != nil { // checked first, since the authentication can be used only once
		return err
	}
	if err := a.interactiveAuth(r, operation); err != nil {
		return err
	}
	return a.Accounts.AddEmail(r.Context(), r.Requester, creds)
}

// post3PIDs is the deprecated form of add3PID.
// Spec: client-server-api#post_matrixclientv3account3pid
//
// Deviation: it requires user-interactive authentication, as add3PID does. Otherwise a stolen access token would be
// enough to take an account over.
func (a *API) post3PIDs(r *httpapi.Request) (any, error) {
	var body struct {
		Creds    *accounts.EmailCredentials `json:"three_pid_creds"`
		OldCreds *accounts.EmailCredentials `json:"threePidCreds"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Creds == nil {
		body.Creds = body.OldCreds
	}
	if body.Creds == nil {
		return nil, missing("three_pid_creds")
	}
	err := a.addEmail(r, "post3PIDs", *body.Creds)
	if mxerr.Code(err) == mxerr.CodeThreepidAuthFailed { // unlike add3PID, with this status
		err = mxerr.New(http.StatusForbidden, mxerr.CodeThreepidAuthFailed, "The e-mail address is not verified").Because(err)
	}
	return nil, err
}

// threepid identifies the third-party identifier, such as an e-mail address, that a request is to remove.
type threepid struct {
	Medium   string `json:"medium"`
	Address  string `json:"address"`
	IDServer string `json:"id_server"`
}

func (t threepid) check() error {
	switch {
	case t.Medium == "":
		return missing("medium")
	case t.Address == "":
		return missing("address")
	}
	return nil
}

// delete3pidFromAccount removes an e-mail address from the account.
// Spec: client-server-api#post_matrixclientv3account3piddelete
func (a *API) delete3pidFromAccount(r *httpapi.Request) (any, error) {
	var body threepid
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if err := body.check(); err != nil {
		return nil, err
	}
	if err := a.Accounts.RemoveEmail(r.Context(), r.Requester, body.Medium, body.Address); err != nil {
		return nil, err
	}
	result, err := a.unbind(r, body)
	if err != nil { // the address has been removed; errors at the identity server are only logged
		a.Log.InfoContext(r.Context(), "could not unbind an address", "user", r.UserID, "id_server", body.IDServer, "err", err)
		result = unbound(false)
	}
	return result, nil
}
