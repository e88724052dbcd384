package clientapi

import (
	"encoding/json"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/httpapi"
	"ebb/rooms/txns"
)

const (
	clientV3 = "/_matrix/client/v3"
	clientV1 = "/_matrix/client/v1"
	clientR0 = "/_matrix/client/r0"
)

// oldNames returns the paths under which releases of the specification before v1.1 have the given v3 path.
func oldNames(path string) []string {
	rest := strings.TrimPrefix(path, clientV3)
	return []string{clientR0 + rest, "/_matrix/client/api/v1" + rest}
}

// roomRoute returns a v3 route of the specification that requires an access token.
func roomRoute(method, path, operation, file string, rate httpapi.Rate, h func(*httpapi.Request) (any, error)) httpapi.Route {
	path = clientV3 + path
	return httpapi.Route{
		Method: method, Path: path, Aliases: oldNames(path), OperationID: operation, File: file, Auth: httpapi.User, Rate: rate, Handler: h,
	}
}

// rateOf returns the class of an operation that reads with GET and changes something with other methods.
func rateOf(method string) httpapi.Rate {
	if method == http.MethodGet {
		return httpapi.Reads
	}
	return httpapi.Sends
}

func roomID(r *httpapi.Request) id.RoomID { return id.RoomID(r.Var("roomId")) }

func userID(r *httpapi.Request) id.UserID { return id.UserID(r.Var("userId")) }

func eventID(r *httpapi.Request) id.EventID { return id.EventID(r.Var("eventId")) }

// txn returns the transaction ID of a request, together with the rest of the path, within which the ID is unique.
func txn(r *httpapi.Request) *txns.Txn {
	path := r.URL.EscapedPath()
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		path = path[:i]
	}
	// A client may retry a request under another version of the API.
	for _, base := range []string{clientR0, "/_matrix/client/api/v1"} {
		if rest, ok := strings.CutPrefix(path, base); ok {
			path = clientV3 + rest
		}
	}
	return &txns.Txn{Path: path, ID: r.Var("txnId")}
}

// appendText appends a string in JSON form.
func appendText(dst []byte, text string) []byte { return canonjson.AppendString(dst, text) }

// object builds a JSON object from parts that are JSON already; encoding/json would parse them all again.
type object []byte

func (o *object) member(key string, value []byte) {
	if len(*o) == 0 {
		*o = append(make([]byte, 0, len(value)+256), '{')
	} else {
		*o = append(*o, ',')
	}
	*o = append(append(appendText(*o, key), ':'), value...)
}

// text adds a field whose value is a string, unless the string is empty.
func (o *object) text(key, value string) {
	if value != "" {
		o.member(key, appendText(nil, value))
	}
}

func (o *object) array(key string, list []json.RawMessage) {
	o.member(key, nil)
	*o = append(*o, '[')
	for i, value := range list {
		if i > 0 {
			*o = append(*o, ',')
		}
		*o = append(*o, value...)
	}
	*o = append(*o, ']')
}

func (o *object) close() json.RawMessage {
	if len(*o) == 0 {
		return json.RawMessage("{}")
	}
	return json.RawMessage(append(*o, '}'))
}
