// Package moderation stores reports by users for the administrators of this server, and shows redacted events to
// moderators of rooms.
//
// A report names its reporter and its subject. It has no copy of events. It refers to the reported event, or to the
// state events that describe a reported room, so that redaction and retention apply to the content of reports too.
package moderation

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/history"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// These constants bound reports.
const (
	maxReason        = 4096   // bytes in a reason
	maxReportsOfUser = 200    // beyond this number, the reporter's oldest reports are deleted
	maxReports       = 20_000 // beyond this number, the oldest reports are deleted; at most about 100 MB
)

// Options are the dependencies of a Service; all fields but Audit are required.
type Options struct {
	DB      *storage.DB
	Audit   *audit.Log // records who reads the content of redacted events
	Rooms   *rooms.Service
	History *history.Service
	Now     func() time.Time
}

// Service stores reports and lists them. It is safe for concurrent use.
type Service struct{ opts Options }

// New returns a Service.
func New(o Options) *Service { return &Service{o} }

// ReportEvent stores a report of an event in a room that the reporter has joined.
// Spec: client-server-api#post_matrixclientv3roomsroomidreporteventid
//
// Errors: M_NOT_FOUND, also if the reporter is not in the room; M_INVALID_PARAM.
func (s *Service) ReportEvent(ctx context.Context, by ident.Requester, room id.RoomID, event id.EventID, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	e, err := s.opts.History.Reported(ctx, room, event, by)
	if err != nil {
		return err
	}
	return s.add(ctx, by, storage.Report{Room: string(room), Event: string(event), User: string(e.Sender()), Reason: reason}, e.Pos)
}

// Unredacted returns an event to a moderator of its room, as it was before it was redacted if the original is still
// kept. The audit log records that an original was read, before anybody gets it.
// Spec: MSC2815
//
// Errors: those of history.Service.Unredacted.
func (s *Service) Unredacted(ctx context.Context, by ident.Requester, room id.RoomID, event id.EventID) (json.RawMessage, error) {
	form, original, err := s.opts.History.Unredacted(ctx, room, event, by)
	if err == nil && original {
		err = s.opts.Audit.Record(ctx, "redacted event read", "user", by.UserID, "room", room, "event", event)
	}
	if err != nil {
		return nil, err
	}
	return form, nil
}

// describing lists the types of the state events that a report of a room refers to.
var describing = []string{"m.room.name", "m.room.topic", "m.room.avatar", "m.room.canonical_alias"}

// ReportRoom stores a report of a room, which the reporter need not have joined. It stores a report of an unknown room
// in the same way, so that neither the response nor its timing reveals which rooms this server knows.
// Spec: client-server-api#post_matrixclientv3roomsroomidreport
//
// Errors: M_INVALID_PARAM.
func (s *Service) ReportRoom(ctx context.Context, by ident.Requester, room id.RoomID, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	if len(room) < 2 || room[0] != '!' || len(room) > 255 {
		return mxerr.InvalidParam("The reported room ID is not valid")
	}
	var about []storage.Pos
	if r, err := s.opts.Rooms.Room(ctx, room); err == nil { // otherwise it is unknown, or cannot be read at present
		for _, typ := range describing {
			if e := r.State(typ, ""); e != nil {
				about = append(about, e.Pos)
			}
		}
	}
	return s.add(ctx, by, storage.Report{Room: string(room), Reason: reason}, about...)
}

// ReportUser stores a report of a user. It stores a report of a user who does not exist in the same way, so that
// neither the response nor its timing reveals which users exist.
// Spec: client-server-api#post_matrixclientv3usersuseridreport
//
// Errors: M_INVALID_PARAM.
func (s *Service) ReportUser(ctx context.Context, by ident.Requester, user id.UserID, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	if _, _, err := user.Parse(); err != nil || len(user) > 255 {
		return mxerr.InvalidParam("The reported user ID is not valid")
	}
	profile, err := s.profile(ctx, user)
	if err != nil {
		return err
	}
	return s.add(ctx, by, storage.Report{User: string(user), Profile: profile, Reason: reason})
}

// profile returns the display name and avatar of a local user as JSON, or "" if the user has neither.
func (s *Service) profile(ctx context.Context, user id.UserID) (string, error) {
	shown := map[string]json.RawMessage{}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		nid, _, err := tx.LookupUser(string(user))
		if err != nil {
			return err
		}
		fields, err := tx.Profile(nid) // also read if nid is 0, so that the timing is the same
		for _, f := range fields {
			if f.Name == "displayname" || f.Name == "avatar_url" {
				shown[f.Name] = json.RawMessage(f.Value)
			}
		}
		return err
	})
	if err != nil || len(shown) == 0 {
		return "", err
	}
	raw, err := json.Marshal(shown)
	return string(raw), err
}

func checkReason(reason string) error {
	if len(reason) > maxReason {
		return mxerr.InvalidParam("The reason must not be longer than %d bytes", maxReason)
	}
	return nil
}

func (s *Service) add(ctx context.Context, by ident.Requester, r storage.Report, about ...storage.Pos) error {
	r.Reporter, r.TS = by.UserNID, s.opts.Now().UnixMilli()
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.AddReport(r, about, maxReportsOfUser, maxReports) })
}

// Report is a report in the form shown to administrators.
type Report struct {
	NID      int64
	Reporter id.UserID
	Time     time.Time
	Room     id.RoomID
	Event    id.EventID
	User     id.UserID
	Reason   string
	Profile  json.RawMessage   // of a reported local user at the time of the report; nil if there is none
	Content  []json.RawMessage // the reported events, except those that were purged or have expired
}

// Reports returns at most limit reports with numbers after the given one, oldest first.
func (s *Service) Reports(ctx context.Context, after int64, limit int) ([]Report, error) {
	var rows []storage.Report
	var events map[int64][]storage.Pos
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if rows, err = tx.Reports(after, limit); err != nil {
			return err
		}
		events, err = tx.ReportEvents(rows)
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []storage.Pos
	for _, positions := range events {
		all = append(all, positions...)
	}
	contents, err := s.opts.History.Unexpired(ctx, all)
	if err != nil {
		return nil, err
	}
	out := make([]Report, len(rows))
	for i, r := range rows {
		out[i] = Report{NID: r.NID, Reporter: id.UserID(r.ReporterID), Time: time.UnixMilli(r.TS), Room: id.RoomID(r.Room),
			Event: id.EventID(r.Event), User: id.UserID(r.User), Reason: r.Reason}
		if r.Profile != "" {
			out[i].Profile = json.RawMessage(r.Profile)
		}
		for _, p := range events[r.NID] {
			if content, there := contents[p]; there {
				out[i].Content = append(out[i].Content, content)
			}
		}
	}
	return out, nil
}
