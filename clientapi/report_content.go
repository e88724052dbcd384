package clientapi

import "ebb/httpapi"

func (a *API) reportContentRoutes() []httpapi.Route {
	const file = "report_content.yaml"
	return []httpapi.Route{
		roomRoute("POST", "/rooms/{roomId}/report", "reportRoom", file, httpapi.Reports, a.reportRoom),
		roomRoute("POST", "/rooms/{roomId}/report/{eventId}", "reportEvent", file, httpapi.Reports, a.reportEvent),
		roomRoute("POST", "/users/{userId}/report", "reportUser", file, httpapi.Reports, a.reportUser),
	}
}

// reason returns the value of reason in the body.
func reason(r *httpapi.Request, required bool) (string, error) {
	var body struct {
		Reason *string `json:"reason"`
	}
	if err := r.Decode(&body); err != nil {
		return "", err
	}
	if body.Reason == nil {
		if required {
			return "", missing("reason")
		}
		return "", nil
	}
	return *body.Reason, nil
}

// reportRoom reports a room to the administrators.
// Spec: client-server-api#post_matrixclientv3roomsroomidreport
func (a *API) reportRoom(r *httpapi.Request) (any, error) {
	why, err := reason(r, true)
	if err != nil {
		return nil, err
	}
	return nil, a.Moderation.ReportRoom(r.Context(), r.Requester, roomID(r), why)
}

// reportEvent reports an event to the administrators.
// Spec: client-server-api#post_matrixclientv3roomsroomidreporteventid
func (a *API) reportEvent(r *httpapi.Request) (any, error) {
	why, err := reason(r, false)
	if err != nil {
		return nil, err
	}
	return nil, a.Moderation.ReportEvent(r.Context(), r.Requester, roomID(r), eventID(r), why)
}

// reportUser reports a user to the administrators.
// Spec: client-server-api#post_matrixclientv3usersuseridreport
func (a *API) reportUser(r *httpapi.Request) (any, error) {
	why, err := reason(r, true)
	if err != nil {
		return nil, err
	}
	return nil, a.Moderation.ReportUser(r.Context(), r.Requester, userID(r), why)
}
