package storage

import (
	"ebb/ident"
	"ebb/storage/sealing"
)

// Report is a report of an event, a room or a user.
type Report struct {
	NID        int64
	Reporter   ident.UserNID
	ReporterID string // set by Reports
	TS         int64  // ms
	Room       string // "": a user was reported
	Event      string // "": a room or a user was reported
	User       string // the reported user or the sender of the event; "": a room was reported
	Profile    string // JSON: the profile of a reported local user at that time; "" if there is none
	Reason     string
}

const (
	addReportQuery = `INSERT INTO reports (nid, reporter_nid, ts, room_id, event_id, user_id, profile, reason, body_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	// isHeldReport is true for a report that a legal hold covers: it is about a held room or user or about one of their
	// messages, or a held user has made it.
	isHeldReport = `EXISTS (SELECT 1 FROM legal_holds h LEFT JOIN rooms hr ON hr.nid = h.room_nid LEFT JOIN users hu ON hu.nid = h.user_nid
WHERE h.lifted_ts = 0 AND (hr.room_id = reports.room_id OR hu.user_id = reports.user_id OR h.user_nid = reports.reporter_nid))`
	// It uses the index reports_by_reporter.
	excessReportsOfQuery = `SELECT nid FROM reports WHERE reporter_nid = $1 AND NOT ` + isHeldReport + ` ORDER BY nid DESC LIMIT 100 OFFSET $2`
	excessReportsQuery   = `SELECT nid FROM reports WHERE NOT ` + isHeldReport + ` ORDER BY nid DESC LIMIT 100 OFFSET $1`
)

// AddReport stores a report, with the positions of the events that it is about. It then deletes the oldest reports, so
// that at most ofReporter reports of the same user and at most all reports in total remain, besides those that a legal
// hold covers: they may be evidence.
func (tx *Tx) AddReport(r Report, events []Pos, ofReporter, all int) error {
	r.NID = int64(tx.NextPos())
	reason, sealed, err := tx.sealKind(sealing.Reports, 0, sealing.Reasons, r.NID, r.Reason)
	if err != nil {
		return err
	}
	if _, err := tx.exec(addReportQuery, r.NID, int64(r.Reporter), r.TS, r.Room, r.Event, r.User, r.Profile, reason, sealed); err != nil {
		return err
	}
	for _, p := range events {
		if _, err := tx.exec(`INSERT INTO report_events (report_nid, position) VALUES ($1, $2)`, r.NID, int64(p)); err != nil {
			return err
		}
	}
	own, err := collect(tx, scanNumber[int64], excessReportsOfQuery, int64(r.Reporter), ofReporter)
	if err != nil {
		return err
	}
	if err := tx.deleteReports(own); err != nil {
		return err
	}
	excess, err := collect(tx, scanNumber[int64], excessReportsQuery, all)
	if err != nil {
		return err
	}
	return tx.deleteReports(excess)
}

func (tx *Tx) deleteReports(nids []int64) error {
	for _, nid := range nids {
		if _, err := tx.exec(`DELETE FROM report_events WHERE report_nid = $1`, nid); err != nil {
			return err
		}
		if err := tx.soil(`SELECT body_key FROM reports WHERE nid = $1`, nid); err != nil {
			return err
		}
		if _, err := tx.exec(`DELETE FROM reports WHERE nid = $1`, nid); err != nil {
			return err
		}
	}
	return nil
}

const (
	reportsQuery = `SELECT r.nid, r.reporter_nid, u.user_id, r.ts, r.room_id, r.event_id, r.user_id, r.profile, r.reason, r.body_key
FROM reports r JOIN users u ON u.nid = r.reporter_nid WHERE r.nid > $1 `
	reportsPage = ` ORDER BY r.nid LIMIT $2`
)

// Reports returns a page of the reports, oldest first: at most limit of those after a number. It uses the primary key.
func (tx *Tx) Reports(after int64, limit int) ([]Report, error) {
	return tx.reports(reportsQuery+reportsPage, after, limit)
}

// ReportsOf is like Reports, but for the reports of one user. It uses the index reports_by_reporter.
func (tx *Tx) ReportsOf(user ident.UserNID, after int64, limit int) ([]Report, error) {
	return tx.reports(reportsQuery+`AND r.reporter_nid = $3`+reportsPage, after, limit, int64(user))
}

func (tx *Tx) reports(query string, args ...any) ([]Report, error) {
	return collect(tx, func(r Row) (p Report, err error) {
		var sealed int64
		err = r.Scan(&p.NID, &p.Reporter, &p.ReporterID, &p.TS, &p.Room, &p.Event, &p.User, &p.Profile, &p.Reason, &sealed)
		if err == nil && sealed != 0 {
			err = unsealString(r, sealing.Reports, p.NID, &p.Reason)
		}
		return p, err
	}, query, args...)
}

// ReportEvents returns the positions of the events that each of the given reports is about.
func (tx *Tx) ReportEvents(reports []Report) (map[int64][]Pos, error) {
	out := map[int64][]Pos{}
	if len(reports) == 0 {
		return out, nil
	}
	nids := make([]int64, len(reports))
	for i, r := range reports {
		nids[i] = r.NID
	}
	list, args := In(1, nids)
	err := tx.each(func(r Row) error {
		var report int64
		var p Pos
		err := r.Scan(&report, &p)
		out[report] = append(out[report], p)
		return err
	}, `SELECT report_nid, position FROM report_events WHERE report_nid IN `+list+` ORDER BY position`, args...)
	return out, err
}

const (
	eraseReportsQuery  = `SELECT nid FROM reports WHERE reporter_nid = $1 AND NOT ` + isHeldReport
	eraseProfilesQuery = `UPDATE reports SET profile = '' WHERE profile <> '' AND user_id = (SELECT user_id FROM users WHERE nid = $1) AND NOT ` + isHeldReport
)

// eraseReports deletes the reports that a user has made. In reports about the user, it deletes the user's profile.
// Reports that a legal hold covers stay as they are; see EraseReleasedReports.
func (tx *Tx) eraseReports(user ident.UserNID) error {
	own, err := collect(tx, scanNumber[int64], eraseReportsQuery, int64(user))
	if err != nil {
		return err
	}
	if err := tx.deleteReports(own); err != nil {
		return err
	}
	_, err = tx.exec(eraseProfilesQuery, int64(user))
	return err
}

const (
	erasedReportsQuery    = `SELECT nid FROM reports WHERE reporter_nid IN (SELECT user_nid FROM erased_users) AND NOT ` + isHeldReport + ` ORDER BY nid LIMIT 500`
	releasedProfilesQuery = `UPDATE reports SET profile = '' WHERE profile <> ''
AND user_id IN (SELECT u.user_id FROM users u JOIN erased_users e ON e.user_nid = u.nid) AND NOT ` + isHeldReport
)

// EraseReleasedReports does what eraseReports has left because of legal holds, in so far as these were lifted.
func (tx *Tx) EraseReleasedReports() error {
	for {
		page, err := collect(tx, scanNumber[int64], erasedReportsQuery)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		if err := tx.deleteReports(page); err != nil {
			return err
		}
	}
	_, err := tx.exec(releasedProfilesQuery)
	return err
}
