package clientapi

import (
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) supportRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/.well-known/matrix/support", OperationID: "getWellknownSupport", File: "support.yaml", Handler: a.getWellknownSupport}}
}

// getWellknownSupport returns the contacts for support.
// Spec: client-server-api#getwell-knownmatrixsupport
func (a *API) getWellknownSupport(*httpapi.Request) (any, error) {
	w := a.Config.WellKnown
	if len(w.Contacts) == 0 && w.SupportPage == "" {
		return nil, mxerr.NotFound("This server has no published contact")
	}
	type contact struct {
		Role  string `json:"role"`
		ID    string `json:"matrix_id,omitempty"`
		Email string `json:"email_address,omitempty"`
	}
	answer := map[string]any{}
	if w.SupportPage != "" {
		answer["support_page"] = w.SupportPage
	}
	var contacts []contact
	for _, c := range w.Contacts {
		contacts = append(contacts, contact{c.Role, c.MatrixID, c.EmailAddress})
	}
	if contacts != nil {
		answer["contacts"] = contacts
	}
	return answer, nil
}
