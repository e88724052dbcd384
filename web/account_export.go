package web

import (
	"net/http"
	"net/url"
	"strconv"

	"ebb/export"
	"ebb/httpapi"
)

const pathDownload = pathExport + "/download"

// exportView is what the page about an export shows.
type exportView struct {
	State            export.State
	Started, Expires string
	Size             string
	LeftOut          int64
	Conversations    bool
	Key              string
	Problem          string
}

func (s session) export() export.Owner { return export.Owner{User: s.User} }

func (p *Pages) showExport(r *httpapi.Request, s session, problem error) (any, error) {
	if err := p.opts.Export.Sweep(r.Context()); err != nil {
		return nil, err
	}
	st := p.opts.Export.Status(s.export())
	d := exportView{State: st.State, Started: when(st.Started), Expires: when(st.Expires), Size: size(st.Size), LeftOut: st.LeftOut, Conversations: st.Conversations, Key: st.Key, Problem: st.Problem}
	return p.showProblem(r, "export", s.cookie, p.ownView(r, s, "export.title", d), problem, nil)
}

// size returns a number of bytes as the pages show it.
func size(n int64) string {
	if n < 1<<20 {
		return strconv.FormatInt(n>>10+1, 10) + " KB"
	}
	return strconv.FormatInt(n>>20, 10) + " MB"
}

func (p *Pages) startExport(r *httpapi.Request, s session, form url.Values) (any, error) {
	if _, err := p.opts.Export.Start(r.Context(), s.export(), s.UserID, form.Get("conversations") != ""); err != nil {
		return nil, err
	}
	return redirect(pathExport)
}

func (p *Pages) dropExport(_ *httpapi.Request, s session, _ url.Values) (any, error) {
	p.opts.Export.Drop(s.export())
	return done(pathExport, "export")
}

// getDownload sends the archive.
func (p *Pages) getDownload(r *httpapi.Request) (any, error) {
	s, answer, err := p.signedIn(r, need{Lead: english["account.lead"], Recent: stepUp})
	if err != nil || answer != nil {
		return answer, err
	}
	d, err := p.opts.Export.Open(r.Context(), s.export())
	if err != nil {
		return nil, err
	}
	return httpapi.Stream(func(w http.ResponseWriter, hr *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/zip")
		h.Set("Content-Disposition", `attachment; filename="`+d.Name+`"`)
		http.ServeContent(w, hr, "", p.opts.Now(), d)
	}), nil
}
