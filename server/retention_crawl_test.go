package server_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ebb/httpapi"
	"ebb/internal/testserver"
)

// crawlQueries lists query strings with which the crawl of expired messages makes a request. A GET operation that is
// not in the list is requested without a query. Placeholders are replaced as in paths.
var crawlQueries = map[string][]string{
	"sync":                         {"", "full_state=true", "since={since}", `filter={"room":{"timeline":{"limit":100}}}`, `since={since}&filter={"room":{"timeline":{"limit":2}}}`},
	"getRoomEvents":                {"dir=b&limit=100", "dir=f&limit=100", "dir=b&limit=3", `dir=b&limit=100&filter={"types":["m.reaction"]}`},
	"getOneRoomEvent":              {"", "fi.mau.msc2815.include_unredacted_content=true"},
	"getEventContext":              {"limit=50"},
	"peekEvents":                   {"timeout=0&room_id={roomId}", "timeout=0&from={since}&room_id={roomId}"},
	"initialSync":                  {"limit=100"},
	"roomInitialSync":              {"limit=100"},
	"getRelatingEvents":            {"dir=b", "dir=f&recurse=true"},
	"getThreadRoots":               {"", "include=participated"},
	"getEventByTimestamp":          {"dir=f&ts=0", "dir=b&ts={now}"},
	"getNotifications":             {"limit=100", "only=highlight"},
	"getMutualRooms":               {"user_id={userId}"},
	"getKeysChanges":               {"from={since}&to={since}"},
	"getThreadSubscriptions":       {"dir=b&limit=100"},
	"getRoomStateWithKey":          {"", "format=event"},
	"backfillRoom":                 {"v={eventId}&limit=100"},
	"getRoomStateIds":              {"event_id={eventId}"},
	"getRoomState":                 {"event_id={eventId}"}, // of servers; clients' is crawled by its path
	"makeJoin":                     {"ver=1&ver=10&ver=11&ver=12"},
	"makeKnock":                    {"ver=1&ver=10&ver=11&ver=12"},
	"queryProfile":                 {"user_id={userId}"},
	"queryRoomDirectory":           {"room_alias={roomAlias}"},
	"queryLocationByAlias":         {"alias={roomAlias}"},
	"queryUserByID":                {"userid={userId}"},
	"checkUsernameAvailability":    {"username=nobody"},
	"registrationTokenValidity":    {"token=t"},
	"getUrlPreview":                {"url=https%3A%2F%2Fexample.org"},
	"getUrlPreviewAuthed":          {"url=https%3A%2F%2Fexample.org"},
	"exchangeOpenIdToken":          {"access_token=t"},
	"getContentThumbnail":          {"width=1&height=1"},
	"getContentThumbnailAuthed":    {"width=1&height=1"},
	"getRelatingEventsWithRelType": {""},
}

// crawlBodies lists the bodies with which the crawl calls the POST operations that read.
var crawlBodies = map[string][]string{
	"search":      {`{"search_categories":{"room_events":{"search_term":"{word}","order_by":"recent","event_context":{"before_limit":5,"after_limit":5},"include_state":true}}}`},
	"slidingSync": {`{"lists":{"all":{"range":[0,20],"timeline_limit":50,"required_state":{"include":[{}]}}},"extensions":{"account_data":{"enabled":true},"receipts":{"enabled":true},"typing":{"enabled":true}}}`},
	"slidingSyncUnstable": {`{"lists":{"all":{"ranges":[[0,20]],"timeline_limit":50,"required_state":[["*","*"]]}},"extensions":{"account_data":{"enabled":true},"receipts":{"enabled":true},"typing":{"enabled":true},
		"org.matrix.msc4354.sticky_events":{"enabled":true},"io.element.msc4308.thread_subscriptions":{"enabled":true}}}`},
	"getMissingPreviousEvents": {`{"earliest_events":[],"latest_events":["{eventId}"],"limit":100}`, `{"earliest_events":["{eventId}"],"latest_events":["{newest}"],"limit":100}`},
	"queryPublicRooms":         {`{}`},
	"searchUserDirectory":      {`{"search_term":"a"}`},
	"queryKeys":                {`{"device_keys":{"{userId}":[]}}`},
	"queryUserEncryptionKeys":  {`{"device_keys":{"{userId}":[]}}`},
	"bulkPerspectivesKeyQuery": {`{"server_keys":{}}`},
}

// crawlWrites lists the POST operations that change something and whose responses have no events. A POST operation that
// is neither here nor in crawlBodies fails the test, so that nobody adds a way to read messages without crawling it.
var crawlWrites = strings.Fields(`deactivateAccount requestTokenTo3PIDEmail requestTokenTo3PIDMSISDN post3PIDs add3PID
	bind3PID unbind3pidFromAccount delete3pidFromAccount pingAppservice ban unban uploadContent createContent createRoom
	uploadCrossSigningKeys uploadCrossSigningSignatures postDehydratedDeviceEvents updateDelayedEvent manageDelayedEvent
	deleteDevices postEmailPage defineFilter inviteUser joinRoomById joinRoom postRoomKeysVersion uploadKeys claimKeys kick
	knockRoom leaveRoom forgetRoom login generateLoginToken logout logout_all registerOAuthClient getOAuthToken
	revokeOAuthToken authorizeOAuthDevice requestOpenIdToken requestTokenToResetPasswordEmail
	requestTokenToResetPasswordMSISDN changePassword postPusher setReadMarker postReceipt postRedaction refresh
	requestTokenToRegisterEmail requestTokenToRegisterMSISDN register reportRoom reportEvent reportUser postMessage
	upgradeRoom registerWithSharedSecret claimUserEncryptionKeys postAuthorizePage postLinkPage`)

// crawlNoEvents matches the paths of operations that only have accounts, keys, pages or media. Their GET operations are
// requested too, but the responses may be errors.
var crawlNoEvents = regexp.MustCompile(`/oauth2/|/account/|/admin/|/keys/|/room_keys/|/media/|/thirdparty/|/register|/login|/pushrules|/pushers|/devices|/dehydrated_device|/email/|well-known|/delayed_events|/filter/|/voip/|/rtc/|/openid/|/query/|/account_data/|/directory/|/profile/|/subscription|/keys$|/make_|/mutual_rooms|/auth_(metadata|issuer)|/presence/|/rendezvous|/dev\.ebb\.message_lifetime`)

var placeholder = regexp.MustCompile(`\{(\w+)\}`)

// crawled is one response of the crawl.
type crawled struct {
	operation, request string
	status             int
	raw                []byte
}

// crawl is the context in which the operations of one server are requested.
type crawl struct {
	t      testing.TB
	s      *testserver.Server
	as     *testserver.Client  // who asks; nil if another server does
	peer   *testserver.Server  // the server that asks
	rooms  []string            // rooms that are asked for
	events map[string][]string // the events that are asked for, by room
	values map[string]string   // values of other placeholders
}

// run requests every operation that reads.
func (c *crawl) run(f func(crawled)) {
	c.t.Helper()
	for _, route := range c.s.Routes() {
		if forServers(route) != (c.as == nil) || route.Page { // pages for browsers show no events
			continue
		}
		switch bodies, reads := crawlBodies[route.OperationID]; {
		case route.Method == http.MethodGet:
			queries := crawlQueries[route.OperationID]
			if queries == nil || route.OperationID == "getRoomState" && c.as != nil {
				queries = []string{""}
			}
			for _, q := range queries {
				c.request(route, route.Path, q, "", f)
			}
		case route.Method == http.MethodPost && reads:
			for _, body := range bodies {
				c.request(route, route.Path, "", body, f)
			}
		case route.Method == http.MethodPost && !slices.Contains(crawlWrites, route.OperationID) && !crawlNoEvents.MatchString(route.Path):
			c.t.Errorf("%s %s is in neither crawlBodies nor crawlWrites: does it return events?", route.OperationID, route.Path)
		}
	}
}

// forServers reports whether other servers call an operation.
func forServers(r httpapi.Route) bool {
	return strings.HasPrefix(r.Path, "/_matrix/federation/") || strings.HasPrefix(r.Path, "/_matrix/key/")
}

// request makes a request for each room and event that its placeholders can stand for.
func (c *crawl) request(route httpapi.Route, path, query, body string, f func(crawled)) {
	c.t.Helper()
	text := path + "\x00" + query + "\x00" + body
	for _, p := range placeholder.FindAllStringSubmatch(path, -1) {
		if crawlNoEvents.MatchString(route.Path) && !c.knows(route.OperationID, p[1]) {
			return
		}
	}
	for _, room := range c.rooms {
		for _, event := range c.events[room] {
			filled := placeholder.ReplaceAllStringFunc(text, func(p string) string { return c.value(route.OperationID, p[1:len(p)-1], room, event) })
			parts := strings.Split(filled, "\x00")
			f(c.send(route, parts[0], parts[1], parts[2]))
			if !strings.Contains(text, "{eventId}") {
				break
			}
		}
		if !strings.Contains(text, "{roomId") && !strings.Contains(text, "{eventId}") {
			return
		}
	}
}

func (c *crawl) value(operation, name, room, event string) string {
	switch name {
	case "roomId", "roomIdOrAlias":
		return url.PathEscape(room)
	case "eventId":
		return url.PathEscape(event)
	case "newest":
		list := c.events[room]
		return list[len(list)-1]
	case "now":
		return fmt.Sprint(c.s.Now().UnixMilli())
	}
	if !c.knows(operation, name) {
		c.t.Fatalf("the crawl has no value for {%s}", name)
	}
	return cmp.Or(c.values[operation+" "+name], c.values[name])
}

// knows reports whether the crawl has a value for a placeholder that names neither a room nor an event.
func (c *crawl) knows(operation, name string) bool {
	return c.values[operation+" "+name] != "" || c.values[name] != "" || crawlNames[name]
}

// crawlNames are the placeholders that may have an empty value or stand for rooms and events.
var crawlNames = map[string]bool{"roomId": true, "roomIdOrAlias": true, "eventId": true, "since": true}

// send makes one request.
func (c *crawl) send(route httpapi.Route, path, query, body string) crawled {
	c.t.Helper()
	uri := path
	if query != "" {
		parsed, err := url.ParseQuery(query)
		if err != nil {
			c.t.Fatal(err)
		}
		uri += "?" + parsed.Encode()
	}
	body = strings.NewReplacer("%21", "!", "%24", "$", "%3A", ":").Replace(body)
	out := crawled{operation: route.OperationID, request: route.Method + " " + uri + " " + body}
	var raw any
	if body != "" {
		raw = []byte(body)
	}
	if c.as != nil {
		out.request = c.as.User + ": " + out.request
		out.status, _, out.raw = c.as.Raw(route.Method, uri, raw)
		return out
	}
	w := httptest.NewRecorder()
	c.s.Handler("federation").ServeHTTP(w, signedRequest(c.t, c.peer, c.s, route.Method, uri, []byte(body)))
	out.status, out.raw = w.Code, w.Body.Bytes()
	return out
}

// signedRequest returns a request from one server to another.
func signedRequest(t testing.TB, from, to *testserver.Server, method, uri string, body []byte) *http.Request {
	t.Helper()
	if len(body) == 0 {
		body = nil
	}
	signature, err := from.Remote().SignRequest(method, uri, to.Name(), body)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, uri, bytes.NewReader(body))
	r.Header.Set("Authorization", signature)
	return r
}

// crawlValues returns the values of placeholders that name neither a room nor an event.
func crawlValues(user, since, word string) map[string]string {
	return map[string]string{
		"userId": url.PathEscape(user), "since": since, "word": word, "eventType": "m.room.message", "relType": "m.thread", "stateKey": url.PathEscape(user), "getRoomStateWithKey eventType": "m.room.member", "type": "m.fully_read",
		"keyName": "displayname", "deviceId": "D", "device_id": "D", "filterId": "1", "kind": "override", "ruleId": ".m.rule.master", "scope": "global", "protocol": "irc",
		"version": "1", "sessionId": "s", "serverName": "hs1.test", "mediaId": "none", "fileName": "f", "delayId": "d", "queryType": "profile", "roomAlias": "%23none%3Ahs1.test",
	}
}

// mentions returns the places in JSON that name one of the given events, other than the content of events that are not
// among them: somebody's message may refer to a message that has expired since.
func mentions(raw []byte, gone map[string]bool) (places []string) {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return nil
	}
	var walk func(v any, place string)
	walk = func(v any, place string) {
		switch v := v.(type) {
		case string:
			if gone[v] {
				places = append(places, place)
			}
		case []any:
			for _, e := range v {
				walk(e, place+"[]")
			}
		case map[string]any:
			event, isEvent := v["event_id"].(string)
			_, hasSender := v["sender"]
			living := isEvent && hasSender && !gone[event]
			for key, value := range v {
				if gone[key] {
					places = append(places, place+" as a key")
				}
				if !living || key != "content" && key != "redacts" {
					walk(value, place+"."+roomID.ReplaceAllString(key, "ROOM"))
				}
			}
		}
	}
	walk(v, "")
	return places
}

var roomID = regexp.MustCompile(`^!.*$`)
