package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
)

func (a *API) accountDataRoutes() []httpapi.Route {
	const file, global, inRoom = "account-data.yaml", "/user/{userId}/account_data/{type}", "/user/{userId}/rooms/{roomId}/account_data/{type}"
	const deletion = "/_matrix/client/unstable/org.matrix.msc3391"
	return []httpapi.Route{
		{Method: "DELETE", Path: deletion + global, Aliases: []string{clientV3 + global}, OperationID: "deleteAccountData", Auth: httpapi.User, Rate: httpapi.Sends, Handler: own(a.deleteAccountData)},
		{Method: "DELETE", Path: deletion + inRoom, Aliases: []string{clientV3 + inRoom}, OperationID: "deleteAccountDataPerRoom", Auth: httpapi.User, Rate: httpapi.Sends, Handler: own(a.deleteAccountDataPerRoom)},
		roomRoute("PUT", global, "setAccountData", file, httpapi.Sends, own(a.setAccountData)),
		roomRoute("GET", global, "getAccountData", file, httpapi.Reads, own(a.getAccountData)),
		roomRoute("PUT", inRoom, "setAccountDataPerRoom", file, httpapi.Sends, own(a.setAccountDataPerRoom)),
		roomRoute("GET", inRoom, "getAccountDataPerRoom", file, httpapi.Reads, own(a.getAccountDataPerRoom)),
	}
}

// setAccountData stores account data of the user.
// Spec: client-server-api#put_matrixclientv3useruseridaccount_datatype
func (a *API) setAccountData(r *httpapi.Request) (any, error) { return a.storeAccountData(r, "") }

// setAccountDataPerRoom stores account data of the user for a room.
// Spec: client-server-api#put_matrixclientv3useruseridroomsroomidaccount_datatype
func (a *API) setAccountDataPerRoom(r *httpapi.Request) (any, error) {
	return a.storeAccountData(r, roomID(r))
}

func (a *API) storeAccountData(r *httpapi.Request, room id.RoomID) (any, error) {
	var content json.RawMessage
	if err := r.Decode(&content); err != nil {
		return nil, err
	}
	return nil, a.AccountData.Set(r.Context(), r.UserNID, room, r.Var("type"), content)
}

// getAccountData returns account data of the user. The type m.push_rules is not stored; it is generated from the push
// rules.
// Spec: client-server-api#get_matrixclientv3useruseridaccount_datatype
func (a *API) getAccountData(r *httpapi.Request) (any, error) {
	if r.Var("type") == "m.push_rules" {
		return a.getPushRules(r)
	}
	return orError(a.AccountData.Get(r.Context(), r.UserNID, "", r.Var("type")))
}

// getAccountDataPerRoom returns account data of the user for a room.
// Spec: client-server-api#get_matrixclientv3useruseridroomsroomidaccount_datatype
func (a *API) getAccountDataPerRoom(r *httpapi.Request) (any, error) {
	return orError(a.AccountData.Get(r.Context(), r.UserNID, roomID(r), r.Var("type")))
}

// deleteAccountData deletes account data of the user.
// Spec: MSC3391
func (a *API) deleteAccountData(r *httpapi.Request) (any, error) {
	return nil, a.AccountData.Delete(r.Context(), r.UserNID, "", r.Var("type"))
}

// deleteAccountDataPerRoom deletes account data of the user for a room.
// Spec: MSC3391
func (a *API) deleteAccountDataPerRoom(r *httpapi.Request) (any, error) {
	return nil, a.AccountData.Delete(r.Context(), r.UserNID, roomID(r), r.Var("type"))
}
