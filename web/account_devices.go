package web

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/accounts/oauth"
	"ebb/httpapi"
)

// deviceView is what the pages show of a device.
type deviceView struct {
	ID     string
	Name   string
	Client string // the OAuth 2.0 client with which it was signed in, or the program that it names
	Host   string // of the website of an OAuth 2.0 client
	Addr   string
	Seen   string
}

// deviceOf returns what the pages show of a device.
func (p *Pages) deviceOf(d accounts.Device, clients map[id.DeviceID]oauth.Metadata) deviceView {
	v := deviceView{ID: string(d.ID), Name: string(d.ID), Client: programOf(d.UserAgent), Addr: d.Address, Seen: when(d.LastSeen)}
	if d.DisplayName != nil && *d.DisplayName != "" {
		v.Name = *d.DisplayName
	}
	if c, found := clients[d.ID]; found {
		v.Client, v.Host = c.Title(), c.Host()
	}
	return v
}

// when returns a time as the pages show it.
func when(t time.Time) string {
	if t.UnixMilli() <= 0 {
		return ""
	}
	return t.UTC().Format("2 January 2006, 15:04 UTC")
}

func (p *Pages) showDevices(r *httpapi.Request, s session, problem error) (any, error) {
	all, err := p.opts.Accounts.Devices(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	clients, err := p.opts.OAuth.ClientsOf(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b accounts.Device) int { return cmp.Compare(b.LastSeen.UnixMilli(), a.LastSeen.UnixMilli()) })
	list := make([]deviceView, len(all))
	for i, d := range all {
		list[i] = p.deviceOf(d, clients)
	}
	return p.showProblem(r, "devices", s.cookie, p.ownView(r, s, "devices.title", list), problem, nil)
}

// signOutAll signs the user out on all devices and in all browsers.
func (p *Pages) signOutAll(r *httpapi.Request, s session, _ url.Values) (any, error) {
	if err := p.opts.Accounts.DeleteAllDevices(r.Context(), s.User, ""); err != nil {
		return nil, err
	}
	return p.show(r, http.StatusOK, "signed-out", "", view{Title: english["devices.gone"], Lead: english["devices.everywhere"]}, p.forget())
}

// showDevice shows one device. A device of another user does not exist for this one.
func (p *Pages) showDevice(r *httpapi.Request, s session, problem error) (any, error) {
	d, err := p.opts.Accounts.Device(r.Context(), s.User, id.DeviceID(r.Query("device_id")))
	if err != nil {
		return nil, err
	}
	clients, err := p.opts.OAuth.ClientsOf(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	return p.showProblem(r, "device", s.cookie, p.ownView(r, s, "device.title", p.deviceOf(d, clients)), problem, nil)
}

func (p *Pages) renameDevice(r *httpapi.Request, s session, f url.Values) (any, error) {
	device := r.Query("device_id")
	if err := p.opts.Accounts.RenameDevice(r.Context(), s.User, id.DeviceID(device), f.Get("name")); err != nil {
		return nil, err
	}
	return done(pathDevice+"?"+url.Values{"device_id": {device}}.Encode(), "renamed")
}

func (p *Pages) signOutDevice(r *httpapi.Request, s session, _ url.Values) (any, error) {
	d, err := p.opts.Accounts.Device(r.Context(), s.User, id.DeviceID(r.Query("device_id")))
	if err != nil {
		return nil, err
	}
	if err := p.opts.Accounts.DeleteDevices(r.Context(), s.User, []id.DeviceID{d.ID}); err != nil {
		return nil, err
	}
	return done(pathDevices, "device")
}
