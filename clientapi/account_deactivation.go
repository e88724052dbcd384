package clientapi

import (
	"ebb/accounts"
	"ebb/httpapi"
)

func (a *API) accountDeactivationRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "POST", Path: "/_matrix/client/v3/account/deactivate", Aliases: []string{"/_matrix/client/r0/account/deactivate"},
		OperationID: "deactivateAccount", File: "account_deactivation.yaml", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.deactivateAccount}}
}

// deactivateAccount permanently closes the account.
// Spec: client-server-api#post_matrixclientv3accountdeactivate
func (a *API) deactivateAccount(r *httpapi.Request) (any, error) {
	var body struct {
		Erase      bool `json:"erase"`
		Everything bool `json:"dev.ebb.erase_everything"` // an extension: remove the user's messages, media and names too
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if err := a.interactiveAuth(r, "deactivateAccount"); err != nil {
		return nil, err
	}
	bindings, err := a.Accounts.Bindings(r.Context(), r.UserNID)
	if err != nil {
		return nil, err
	}
	erase, held := accounts.ErasureOf(body.Erase, body.Everything), ""
	if erase != accounts.NotErased {
		if held, err = a.Holds.Notice(r.Context(), r.UserNID); err != nil {
			return nil, err
		}
	}
	if err := a.Accounts.Deactivate(r.Context(), r.UserID, erase); err != nil {
		return nil, err
	}
	return deactivated{unbound(a.Identity.UnbindAll(r.Context(), r.UserID, bindings)), held}, nil
}

// deactivated is the answer to a deactivation.
type deactivated struct {
	unbindResult
	Held string `json:"dev.ebb.legal_hold,omitempty"` // an extension: why some data are not erased yet
}
