package clientapi

import (
	"ebb/httpapi"
	"ebb/push"
)

func (a *API) pusherRoutes() []httpapi.Route {
	return []httpapi.Route{
		roomRoute("GET", "/pushers", "getPushers", "pusher.yaml", httpapi.Reads, a.getPushers),
		roomRoute("POST", "/pushers/set", "postPusher", "pusher.yaml", httpapi.Sends, a.postPusher),
	}
}

// getPushers lists the pushers of the user.
// Spec: client-server-api#get_matrixclientv3pushers
func (a *API) getPushers(r *httpapi.Request) (any, error) {
	all, err := a.Pushers.Pushers(r.Context(), r.UserNID)
	return map[string][]push.Pusher{"pushers": all}, err
}

// postPusher creates, changes or deletes a pusher of the user.
// Spec: client-server-api#post_matrixclientv3pushersset
func (a *API) postPusher(r *httpapi.Request) (any, error) {
	var body push.NewPusher
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, a.Pushers.Set(r.Context(), r.Requester, body)
}
