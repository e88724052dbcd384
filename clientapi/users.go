package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
)

func (a *API) usersRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "POST", Path: "/_matrix/client/v3/user_directory/search", Aliases: []string{"/_matrix/client/r0/user_directory/search"},
		OperationID: "searchUserDirectory", File: "users.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.searchUserDirectory}}
}

// defaultFound is the default number of search results.
// Spec: client-server-api#post_matrixclientv3user_directorysearch
const defaultFound = 10

// searchUserDirectory finds users by ID or display name.
// Spec: client-server-api#post_matrixclientv3user_directorysearch
func (a *API) searchUserDirectory(r *httpapi.Request) (any, error) {
	body := struct {
		Term  *string `json:"search_term"`
		Limit int     `json:"limit"`
	}{Limit: defaultFound}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Term == nil {
		return nil, missing("search_term")
	}
	found, limited, err := a.Accounts.Search(r.Context(), r.UserNID, *body.Term, body.Limit)
	type user struct {
		UserID      id.UserID `json:"user_id"`
		DisplayName string    `json:"display_name,omitempty"`
		AvatarURL   string    `json:"avatar_url,omitempty"`
	}
	results := make([]user, len(found))
	for i, f := range found {
		results[i] = user{f.User, f.DisplayName, f.AvatarURL}
	}
	return map[string]any{"results": results, "limited": limited}, err
}
