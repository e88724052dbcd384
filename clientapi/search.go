package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/search"
)

func (a *API) searchRoutes() []httpapi.Route {
	return []httpapi.Route{roomRoute("POST", "/search", "search", "search.yaml", httpapi.Reads, a.search)}
}

// defaultFoundContext is the default number of events returned before and after each result.
const defaultFoundContext = 5

// searchCriteria is the field room_events of a request.
type searchCriteria struct {
	Term         *string         `json:"search_term"`
	Keys         []string        `json:"keys"`
	Filter       json.RawMessage `json:"filter"`
	OrderBy      string          `json:"order_by"`
	IncludeState bool            `json:"include_state"`
	Context      *struct {
		Before   *int `json:"before_limit"`
		After    *int `json:"after_limit"`
		Profiles bool `json:"include_profile"`
	} `json:"event_context"`
	Groupings struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

// search finds events by the words of their text.
// Spec: client-server-api#post_matrixclientv3search
func (a *API) search(r *httpapi.Request) (any, error) {
	var body struct {
		Categories *struct {
			RoomEvents *searchCriteria `json:"room_events"`
		} `json:"search_categories"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Categories == nil {
		return nil, missing("search_categories")
	}
	if !a.Config.Search.Enabled {
		return nil, errSearchOff()
	}
	if body.Categories.RoomEvents == nil {
		return map[string]any{"search_categories": struct{}{}}, nil
	}
	req, err := body.Categories.RoomEvents.request(r.Query("next_batch"))
	if err != nil {
		return nil, err
	}
	page, err := a.History.Search(r.Context(), r.Requester, req)
	if errors.Is(err, history.ErrSearchOff) {
		err = errSearchOff()
	}
	if err != nil {
		return nil, err
	}
	return foundForm(&page), nil
}

func errSearchOff() error {
	return mxerr.New(http.StatusBadRequest, mxerr.CodeUnknown, "Search is disabled on this homeserver")
}

// request checks the criteria and converts them to a request to package history.
func (c *searchCriteria) request(from string) (req history.SearchRequest, err error) {
	if c.Term == nil {
		return req, missing("search_term")
	}
	req = history.SearchRequest{Term: *c.Term, From: from, State: c.IncludeState, Limit: defaultPage}
	for _, key := range c.Keys {
		field, known := search.Keys[key]
		if !known {
			return req, mxerr.InvalidParam("keys must be content.body, content.name or content.topic")
		}
		req.Fields = append(req.Fields, field)
	}
	switch c.OrderBy {
	case "", "rank":
	case "recent":
		req.Recent = true
	default:
		return req, mxerr.InvalidParam("order_by must be recent or rank")
	}
	for _, g := range c.Groupings.By {
		switch g.Key {
		case "room_id":
			req.GroupByRoom = true
		case "sender":
			req.GroupBySender = true
		default:
			return req, mxerr.InvalidParam("The key of a group must be room_id or sender")
		}
	}
	if req.Filter, err = history.ParseEventFilter(string(c.Filter)); err != nil {
		return req, err
	}
	if req.Filter.Limit > 0 {
		req.Limit = min(req.Filter.Limit, history.MaxFound)
	}
	return req, c.context(&req)
}

// context reads the part of the criteria about the events around each result.
func (c *searchCriteria) context(req *history.SearchRequest) error {
	if c.Context == nil {
		return nil
	}
	req.Context, req.Profiles, req.Before, req.After = true, c.Context.Profiles, defaultFoundContext, defaultFoundContext
	for _, l := range []struct {
		given *int
		into  *int
	}{{c.Context.Before, &req.Before}, {c.Context.After, &req.After}} {
		switch {
		case l.given == nil:
		case *l.given < 0:
			return mxerr.InvalidParam("before_limit and after_limit must not be negative")
		default:
			*l.into = min(*l.given, history.MaxFoundContext)
		}
	}
	return nil
}

// foundForm returns the JSON response to a search.
func foundForm(page *history.SearchPage) json.RawMessage {
	var events object
	events.member("count", number(page.Count))
	highlights := make([]json.RawMessage, len(page.Highlights))
	for i, word := range page.Highlights {
		highlights[i] = appendText(nil, word)
	}
	events.array("highlights", highlights)
	results := make([]json.RawMessage, len(page.Results))
	for i := range page.Results {
		results[i] = resultForm(&page.Results[i])
	}
	events.array("results", results)
	if page.State != nil {
		var state object
		for room, list := range page.State {
			state.array(string(room), list)
		}
		events.member("state", state.close())
	}
	if len(page.Groups) > 0 {
		events.member("groups", groupsForm(page.Groups))
	}
	events.text("next_batch", page.Next)
	var category, out object
	category.member("room_events", events.close())
	out.member("search_categories", category.close())
	return out.close()
}

func number(n int) []byte { return strconv.AppendInt(nil, int64(n), 10) }

func resultForm(r *history.SearchResult) json.RawMessage {
	var o object
	o.member("rank", strconv.AppendFloat(nil, r.Rank, 'f', -1, 64))
	o.member("result", r.Event)
	if c := r.Context; c != nil {
		var around object
		around.text("start", c.Start)
		around.text("end", c.End)
		around.array("events_before", c.Before)
		around.array("events_after", c.After)
		if c.Profiles != nil {
			around.member("profile_info", profilesForm(c.Profiles))
		}
		o.member("context", around.close())
	}
	return o.close()
}

func profilesForm(profiles map[id.UserID]history.MemberProfile) json.RawMessage {
	var o object
	for user, p := range profiles {
		var own object
		if p.DisplayName != nil {
			own.member("displayname", p.DisplayName)
		}
		if p.AvatarURL != nil {
			own.member("avatar_url", p.AvatarURL)
		}
		o.member(string(user), own.close())
	}
	return o.close()
}

func groupsForm(kinds map[string]map[string]*history.SearchGroup) json.RawMessage {
	var o object
	for kind, groups := range kinds {
		var list object
		for key, g := range groups {
			var own object
			own.text("next_batch", g.Next)
			own.member("order", number(g.Order))
			results := make([]json.RawMessage, len(g.Results))
			for i, e := range g.Results {
				results[i] = appendText(nil, string(e))
			}
			own.array("results", results)
			list.member(key, own.close())
		}
		o.member(kind, list.close())
	}
	return o.close()
}
