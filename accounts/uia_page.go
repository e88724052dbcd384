package accounts

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Bounds of approvals on the account page.
const (
	approvalLifetime = 10 * time.Minute // since the request, and again since the approval, except for administration
	maxApprovals     = 10               // of a device; beyond it the oldest is dropped
	maxListed        = 50               // shown on the account page, newest first
)

// The names of actions of the account page.
// Spec: client-server-api#account-management-url-actions
const (
	ActionProfile    = "org.matrix.profile"
	ActionDevices    = "org.matrix.devices_list"
	ActionDevice     = "org.matrix.device_view"
	ActionSignOut    = "org.matrix.device_delete"
	ActionDeactivate = "org.matrix.account_deactivate"
	ActionReset      = "org.matrix.cross_signing_reset"
	ActionLifetime   = "dev.ebb.message_lifetime" // an extension
)

// confirmOnPage returns nil if the user has approved the request on the account page. The approval is then used up.
//
// A request without a session continues that of an equal request of the same device, since matrix-rust-sdk repeats its
// request without a session until the user has approved it. The approval holds for this request only: another device,
// or other keys, need another one.
//
// Errors: 401 with the flows.
func (s *Service) confirmOnPage(ctx context.Context, q Asked, p purpose, a auth, b binding) error {
	row, form, err := s.approvalFor(ctx, q, p, b)
	if err != nil {
		return err
	}
	ch := challenge{id: row.Session}
	switch {
	case a.Type != "" && !form.offers(a.Type):
		return form.unmet(ch, errUnknownStage(a.Type))
	case row.ApprovedTS == 0 || a.Session != "" && a.Session != row.Session:
		return form.unmet(ch, nil)
	}
	taken := false
	err = s.write(ctx, func(w *write) (err error) {
		taken, err = w.TakeApproval(row.Session, row.Device)
		return err
	})
	if err == nil && !taken { // used by another request, or expired
		err = form.unmet(ch, nil)
	}
	return err
}

// approvalPage returns the address of the page on which the user approves a request.
func (s *Service) approvalPage(p purpose, session string) string {
	query := url.Values{"session": {session}}
	if p.operation == resettingKeys {
		query.Set("action", ActionReset)
	}
	return s.opts.AccountPage + "?" + query.Encode()
}

// approvalFor returns the row of a request, which it creates if there is none, and the flows that lead to its approval.
func (s *Service) approvalFor(ctx context.Context, q Asked, p purpose, b binding) (row storage.Approval, form challengeForm, err error) {
	digest := base64.RawURLEncoding.EncodeToString(b.body[:])
	found := false
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		row, found, err = tx.ApprovalFor(q.Requester.DeviceNID, q.Operation, q.Target, digest)
		return err
	})
	if err == nil && !found {
		row, err = s.addApproval(ctx, q, digest)
	}
	p.page = s.approvalPage(p, row.Session)
	return row, s.form(p), err
}

// addApproval stores a request that waits for approval, unless an equal one has been stored in the meantime.
func (s *Service) addApproval(ctx context.Context, q Asked, digest string) (row storage.Approval, err error) {
	who := q.Requester
	err = s.write(ctx, func(w *write) error {
		var found bool
		if row, found, err = w.ApprovalFor(who.DeviceNID, q.Operation, q.Target, digest); err != nil || found {
			return err
		}
		if q.Operation == administering {
			w.note("administration asked for", "user", who.UserID, "device", who.DeviceID)
		}
		row = storage.Approval{
			Session: secret("", 16), User: who.UserNID, Device: who.DeviceNID, Operation: q.Operation, Target: q.Target, Digest: digest,
			ExpiresTS: w.Now().Add(approvalLifetime).UnixMilli(),
		}
		return w.AddApproval(row, maxApprovals)
	})
	return row, err
}

// Approval is a request of a client that the user can approve on the account page.
type Approval struct {
	Session    string // of user-interactive authentication
	Operation  string // ID of the operation in the specification
	Target     string // the device that the operation is about, or ""
	Device     id.DeviceID
	DeviceName string
	Created    time.Time
	Approved   bool
	Lasts      time.Duration // how long the device may do this once it is approved; 0 if it may do it once
}

func (s *Service) approvalOf(r storage.Approval) Approval {
	a := Approval{Session: r.Session, Operation: r.Operation, Target: r.Target, Device: id.DeviceID(r.DeviceID), Created: time.UnixMilli(r.CreatedTS), Approved: r.ApprovedTS != 0}
	if r.DeviceName != nil {
		a.DeviceName = *r.DeviceName
	}
	if r.Operation == administering {
		a.Lasts = s.opts.AdminApproval
	}
	return a
}

// Approvals returns the requests of a user that wait for approval, newest first.
func (s *Service) Approvals(ctx context.Context, user ident.UserNID) (list []Approval, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.Approvals(user, maxListed)
		for _, r := range rows {
			if r.ApprovedTS == 0 {
				list = append(list, s.approvalOf(r))
			}
		}
		return err
	})
	return list, err
}

func errNoApproval() error {
	return mxerr.NotFound("This request has expired, was decided already, or is not one of your account: start again in your client")
}

// Approval returns a request of a user by its session.
//
// Errors: M_NOT_FOUND.
func (s *Service) Approval(ctx context.Context, user ident.UserNID, session string) (a Approval, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		row, found, err := tx.Approval(session)
		if err == nil && (!found || row.User != user) {
			err = errNoApproval()
		}
		a = s.approvalOf(row)
		return err
	})
	return a, err
}

// Decide approves or refuses a request of a user. An approved request can be sent once, within approvalLifetime. A
// session that asked for administration may administrate until Options.AdminApproval is over.
//
// Errors: M_NOT_FOUND.
func (s *Service) Decide(ctx context.Context, user ident.UserNID, session string, approve bool) error {
	return s.write(ctx, func(w *write) error {
		row, found, err := w.Approval(session)
		switch {
		case err != nil:
			return err
		case !found || row.User != user:
			return errNoApproval()
		}
		var decided bool
		text := "request refused on the account page"
		if approve {
			text = "request approved on the account page"
			decided, err = w.Approve(session, user, w.Now().Add(cmp.Or(s.approvalOf(row).Lasts, approvalLifetime)).UnixMilli())
		} else {
			decided, err = w.DropApproval(session, user)
		}
		if err != nil {
			return err
		}
		if !decided { // approved in another window
			return errNoApproval()
		}
		name, err := w.UserID(user)
		w.note(text, "user", name, "device", row.DeviceID, "operation", strings.TrimSpace(row.Operation+" "+row.Target))
		return err
	})
}

// IsOAuth reports whether the session of a device began by OAuth 2.0.
func (s *Service) IsOAuth(ctx context.Context, device ident.DeviceNID) (oauth bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		_, oauth, err = tx.OAuthSession(device)
		return err
	})
	return oauth, err
}

// purposeOf returns what a logged-in user authenticates for, and whether that happens on the account page: always if
// the session began by OAuth 2.0, and otherwise if the password is not enough to log in, or there is none.
func (s *Service) purposeOf(ctx context.Context, q Asked) (purpose, error) {
	p := purpose{operation: q.Operation}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if _, p.oauth, err = tx.OAuthSession(q.Requester.DeviceNID); err != nil || p.oauth || s.opts.AccountPage == "" {
			return err
		}
		a, found, err := tx.Account(q.Requester.UserNID)
		if err != nil || !found || a.Guest {
			return err
		}
		more, err := s.gate.NeedsSecond(tx, a)
		if err != nil {
			return err
		}
		has, err := s.comparesPassword(tx, a)
		if more || !has {
			p.page = s.opts.AccountPage
		}
		return err
	})
	if p.oauth {
		p.page = s.opts.AccountPage
	}
	return p, err
}

// errOnPageOnly returns the error for an operation that sessions of OAuth 2.0 cannot use, with the address at which the
// user can do the same.
// Spec: client-server-api#oauth-20-api
func (s *Service) errOnPageOnly(q Asked) error {
	if s.opts.AccountPage == "" { // OAuth 2.0 has been switched off since
		return mxerr.Forbidden("This client cannot do this in the session that it has: sign in again")
	}
	query := url.Values{}
	switch q.Operation {
	case "deleteDevice":
		query.Set("action", ActionSignOut)
		query.Set("device_id", q.Target)
	case "deleteDevices":
		query.Set("action", ActionDevices)
	case "deactivateAccount":
		query.Set("action", ActionDeactivate)
	case "setMessageLifetime", "setRoomMessageLifetime":
		query.Set("action", ActionLifetime)
	}
	page := s.opts.AccountPage
	if len(query) > 0 {
		page += "?" + query.Encode()
	}
	return mxerr.New(http.StatusForbidden, mxerr.CodeForbidden, "This client has signed in on the web page of this server, and cannot do this itself: use your account page, %s", page)
}
