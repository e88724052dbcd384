package adminapi

import (
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/httpapi"
)

// userPath is the path prefix of what administrators do with a user.
const userPath = "/_ebb/admin/v1/users/{userId}"

// userRoutes returns the routes by which administrators redact, erase and export what a user has sent. They are the
// commands of the same names, recorded with the administrator who has used them.
func (a *API) userRoutes() []httpapi.Route {
	route := func(method, path, operation string, rate httpapi.Rate, f func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: userPath + path, OperationID: operation, Auth: httpapi.Admin, Rate: rate, Handler: f}
	}
	return []httpapi.Route{
		route("POST", "/erase", "eraseUser", httpapi.Sends, a.postErase),
		route("GET", "/erase", "getErasure", httpapi.Reads, a.getErasure),
		route("POST", "/redactions", "redactUser", httpapi.Sends, a.postRedactions),
		route("GET", "/redactions", "getUserRedactions", httpapi.Reads, a.getRedactions),
		route("DELETE", "/redactions", "cancelUserRedactions", httpapi.Sends, a.deleteRedactions),
		route("POST", "/export", "exportUser", httpapi.Sends, a.postExport),
		route("GET", "/export", "getUserExport", httpapi.Reads, a.getExport),
		route("GET", "/export/archive", "downloadUserExport", httpapi.Reads, a.getExportArchive),
		route("DELETE", "/export", "deleteUserExport", httpapi.Sends, a.deleteExport),
	}
}

// runFor runs a command for an administrator.
func (a *API) runFor(r *httpapi.Request, name string, args any) (any, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	return a.run(audit.WithActor(r.Context(), string(r.Requester.UserID)), name, raw)
}

func (a *API) postErase(r *httpapi.Request) (any, error) {
	var args struct {
		Everything bool `json:"everything"`
	}
	if err := r.Decode(&args); err != nil {
		return nil, err
	}
	return a.runFor(r, "user erase", UserArgs{User: r.Var("userId"), Everything: args.Everything})
}

func (a *API) getErasure(r *httpapi.Request) (any, error) {
	return a.runFor(r, "user erasure", UserArgs{User: r.Var("userId")})
}

func (a *API) postRedactions(r *httpapi.Request) (any, error) {
	var args struct {
		Room   id.RoomID `json:"room"`
		AgeMS  int64     `json:"age_ms"`
		Reason string    `json:"reason"`
		Daily  bool      `json:"daily"`
	}
	if err := r.Decode(&args); err != nil {
		return nil, err
	}
	return a.runFor(r, "user redact", OwnArgs{User: r.Var("userId"), Room: args.Room, AgeMS: args.AgeMS, Reason: args.Reason, Daily: args.Daily})
}

func (a *API) getRedactions(r *httpapi.Request) (any, error) {
	return a.runFor(r, "user redactions", OwnArgs{User: r.Var("userId")})
}

func (a *API) deleteRedactions(r *httpapi.Request) (any, error) {
	return a.runFor(r, "user redact", OwnArgs{User: r.Var("userId"), Cancel: true, Daily: r.Query("daily") == "true", Room: id.RoomID(r.Query("room"))})
}

func (a *API) postExport(r *httpapi.Request) (any, error) {
	var args struct {
		Conversations bool `json:"conversations"`
	}
	if err := r.Decode(&args); err != nil {
		return nil, err
	}
	return a.runFor(r, "user export", ExportArgs{User: r.Var("userId"), Conversations: args.Conversations})
}

func (a *API) getExport(r *httpapi.Request) (any, error) {
	return a.runFor(r, "user export status", ExportArgs{User: r.Var("userId")})
}

// getExportArchive sends the archive.
func (a *API) getExportArchive(r *httpapi.Request) (any, error) {
	o, _, err := a.exportOf(r.Context(), ExportArgs{User: r.Var("userId")})
	if err != nil {
		return nil, err
	}
	d, err := a.Export.Open(r.Context(), o)
	if err != nil {
		return nil, err
	}
	return httpapi.Stream(func(w http.ResponseWriter, hr *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/zip")
		h.Set("Content-Disposition", `attachment; filename="`+d.Name+`"`)
		http.ServeContent(w, hr, "", a.Now(), d)
	}), nil
}

func (a *API) deleteExport(r *httpapi.Request) (any, error) {
	return a.runFor(r, "user export drop", ExportArgs{User: r.Var("userId")})
}
