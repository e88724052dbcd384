package clientapi

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/httpapi"
	"ebb/mxerr"
)

func (a *API) voipRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/v3/voip/turnServer", Aliases: []string{"/_matrix/client/r0/voip/turnServer"},
		OperationID: "getTurnServer", File: "voip.yaml", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getTurnServer}}
}

// getTurnServer returns the TURN servers for calls and credentials for them.
// Spec: client-server-api#get_matrixclientv3voipturnserver; MSC4166 for a server without TURN servers
func (a *API) getTurnServer(r *httpapi.Request) (any, error) {
	if len(a.Config.TURN.URIs) == 0 {
		return nil, mxerr.NotFound("This server has no TURN server")
	}
	return turnCredentials(a.Config.TURN, r.UserID, a.Now()), nil
}

// turnServer is the response of getTurnServer.
type turnServer struct {
	Username string   `json:"username"`
	Password string   `json:"password"`
	URIs     []string `json:"uris"`
	TTL      int64    `json:"ttl"` // seconds
}

// turnCredentials returns credentials according to the convention for TURN servers with a shared secret
// (draft-uberti-behave-turn-rest-00): the username consists of the expiry time and the user, and the password proves
// that the server knows the secret. Without a secret, all users get the configured username and password.
func turnCredentials(c config.TURN, user id.UserID, now time.Time) turnServer {
	out := turnServer{Username: c.Username, Password: c.Password, URIs: c.URIs, TTL: int64(time.Duration(c.Lifetime) / time.Second)}
	if c.SharedSecret == "" {
		return out
	}
	out.Username = strconv.FormatInt(now.Unix()+out.TTL, 10) + ":" + string(user)
	mac := hmac.New(sha1.New, []byte(c.SharedSecret)) // the convention prescribes SHA-1
	mac.Write([]byte(out.Username))
	out.Password = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return out
}
