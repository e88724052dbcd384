package storage

import "ebb/ident"

// Approval is a request of a client that its user can approve on the account page.
type Approval struct {
	Session    string // ID of the session of user-interactive authentication
	User       ident.UserNID
	Device     ident.DeviceNID
	Operation  string
	Target     string // the parameter in the path of the request
	Digest     string // of the body of the request
	CreatedTS  int64  // ms
	ExpiresTS  int64  // ms
	ApprovedTS int64  // ms; 0 if it is not approved
	DeviceID   string
	DeviceName *string
}

const approvalColumns = `SELECT a.session, a.user_nid, a.device_nid, a.operation, a.target, a.digest, a.created_ts, a.expires_ts, a.approved_ts,
d.device_id, d.display_name FROM approvals a JOIN devices d ON d.nid = a.device_nid `

func scanApproval(r Row) (a Approval, err error) {
	err = r.Scan(&a.Session, &a.User, &a.Device, &a.Operation, &a.Target, &a.Digest, &a.CreatedTS, &a.ExpiresTS, &a.ApprovedTS, &a.DeviceID, &a.DeviceName)
	return a, err
}

const (
	approvalForQuery = approvalColumns + `WHERE a.device_nid = $1 AND a.operation = $2 AND a.target = $3 AND a.digest = $4 AND a.expires_ts > $5`
	approvalsQuery   = approvalColumns + `WHERE a.user_nid = $1 AND a.expires_ts > $2 ORDER BY a.created_ts DESC, a.session LIMIT $3`
)

// ApprovalFor finds the approval for a request of a device. It uses the index approvals_by_request.
func (tx *Tx) ApprovalFor(device ident.DeviceNID, operation, target, digest string) (Approval, bool, error) {
	return one(tx, scanApproval, approvalForQuery, int64(device), operation, target, digest, tx.now.UnixMilli())
}

// Approval finds an approval by its session.
func (tx *Tx) Approval(session string) (Approval, bool, error) {
	return one(tx, scanApproval, approvalColumns+`WHERE a.session = $1 AND a.expires_ts > $2`, session, tx.now.UnixMilli())
}

// Approvals returns at most limit approvals of a user, newest first. It uses the index approvals_by_user.
func (tx *Tx) Approvals(user ident.UserNID, limit int) ([]Approval, error) {
	return collect(tx, scanApproval, approvalsQuery, int64(user), tx.now.UnixMilli(), limit)
}

const (
	dropApprovalsQuery = `DELETE FROM approvals WHERE session IN (SELECT session FROM approvals WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT 1000)`
	trimApprovalsQuery = `DELETE FROM approvals WHERE device_nid = $1 AND session NOT IN
(SELECT session FROM approvals WHERE device_nid = $1 ORDER BY created_ts DESC, session LIMIT $2)`
	addApprovalQuery = `INSERT INTO approvals (session, user_nid, device_nid, operation, target, digest, created_ts, expires_ts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
)

// AddApproval stores a new request, which its user has not approved yet. It also deletes expired rows, and the oldest
// rows of the device, so that no more than most remain.
func (tx *Tx) AddApproval(a Approval, most int) error {
	if _, err := tx.exec(dropApprovalsQuery, tx.now.UnixMilli()); err != nil {
		return err
	}
	if _, err := tx.exec(`DELETE FROM approvals WHERE device_nid = $1 AND expires_ts <= $2`, int64(a.Device), tx.now.UnixMilli()); err != nil {
		return err
	}
	if _, err := tx.exec(trimApprovalsQuery, int64(a.Device), most-1); err != nil {
		return err
	}
	_, err := tx.exec(addApprovalQuery, a.Session, int64(a.User), int64(a.Device), a.Operation, a.Target, a.Digest, tx.now.UnixMilli(), a.ExpiresTS)
	return err
}

const approveQuery = `UPDATE approvals SET approved_ts = $3, expires_ts = $4 WHERE session = $1 AND user_nid = $2 AND approved_ts = 0 AND expires_ts > $3`

// Approve records that a user has approved a request, until a time (ms). It returns false if the user has no such
// request that waits for approval.
func (tx *Tx) Approve(session string, user ident.UserNID, until int64) (bool, error) {
	n, err := tx.exec(approveQuery, session, int64(user), tx.now.UnixMilli(), until)
	return n == 1, err
}

const takeApprovalQuery = `DELETE FROM approvals WHERE session = $1 AND device_nid = $2 AND approved_ts > 0 AND expires_ts > $3`

// TakeApproval uses up the approval of a device's request. It returns false if the request is not approved.
func (tx *Tx) TakeApproval(session string, device ident.DeviceNID) (bool, error) {
	n, err := tx.exec(takeApprovalQuery, session, int64(device), tx.now.UnixMilli())
	return n == 1, err
}

// DropApproval deletes a request of a user. It returns false if the user has no such request.
func (tx *Tx) DropApproval(session string, user ident.UserNID) (bool, error) {
	n, err := tx.exec(`DELETE FROM approvals WHERE session = $1 AND user_nid = $2`, session, int64(user))
	return n == 1, err
}
