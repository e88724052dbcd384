package holds

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/backup"
	"ebb/export/archive"
	"ebb/ident"
	"ebb/media"
	"ebb/mxerr"
	"ebb/storage"
)

const (
	// exportPage is how many events are read at a time.
	exportPage = 500
	// maxExports bounds the exports that are written at the same time, and maxRecipients those who can decrypt one.
	maxExports    = 2
	maxRecipients = 20
)

// Export is an archive of everything that a hold covers. It is written while it is read from the database, so nothing
// of it is stored.
type Export struct {
	s          *Service
	hold       Hold
	row        storage.LegalHold
	by         id.UserID
	recipients []string // checked
}

// Export prepares an export of what a hold covers, for an administrator. If there are recipients (age1… or public SSH
// keys), only they can decrypt it. The audit log records who has asked for it.
//
// Errors: M_NOT_FOUND; M_INVALID_PARAM if the hold was lifted or a recipient cannot be read; M_LIMIT_EXCEEDED.
func (s *Service) Export(ctx context.Context, nid int64, by id.UserID, recipients []string) (*Export, error) {
	e := &Export{s: s, by: by, recipients: recipients}
	if len(s.exporting) == maxExports {
		return nil, mxerr.LimitExceeded(time.Minute)
	}
	if len(recipients) > maxRecipients {
		return nil, mxerr.InvalidParam("An export can be encrypted for at most %d recipients", maxRecipients)
	}
	if len(recipients) > 0 {
		if _, err := backup.ParseRecipients(recipients); err != nil {
			return nil, mxerr.InvalidParam("%v", err)
		}
	}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if e.row, err = standing(tx, nid, false); err == nil {
			e.hold, err = s.withRooms(tx, e.row)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return e, s.opts.Audit.Record(ctx, "export of a legal hold begun", "hold", nid, "by", by, "recipients", len(e.recipients))
}

// Name returns a name for the file.
func (e *Export) Name() string {
	name := fmt.Sprintf("%s-hold-%d-%s.zip", e.s.opts.Server, e.hold.ID, e.s.opts.Now().UTC().Format(time.DateOnly))
	if len(e.recipients) > 0 {
		name += ".age"
	}
	return name
}

// Write writes the archive. If it fails, what it has written is incomplete and cannot be verified. The audit log
// records the number of events and files, and the hash of the manifest.
func (e *Export) Write(ctx context.Context, w io.Writer) error {
	select {
	case e.s.exporting <- struct{}{}:
		defer func() { <-e.s.exporting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if len(e.recipients) == 0 {
		return e.write(ctx, w)
	}
	sealed, err := backup.Encrypt(w, e.recipients)
	if err != nil {
		return err
	}
	if err := e.write(ctx, sealed); err != nil {
		return err // without the last block, the file cannot be decrypted to its end
	}
	return sealed.Close()
}

func (e *Export) write(ctx context.Context, w io.Writer) error {
	b := &builder{Export: e, ctx: ctx, out: archive.NewWriter(w, e.s.opts.Now().UTC()), names: map[string]bool{}, files: map[storage.MediaName]bool{}}
	for _, part := range []func() error{b.about, b.rooms, b.uploads, b.media, b.reports, b.account, b.readme} {
		if err := part(); err != nil {
			return err
		}
	}
	m := archive.Manifest{Server: e.s.opts.Server, Hold: e.hold.ID}
	digest := ""
	err := b.out.Finish(m, func(text string) ([]byte, error) {
		signed, _, err := e.s.opts.Audit.Sign(ctx, text)
		digest = archive.Digest(text)
		return signed, err
	})
	if err != nil {
		return err
	}
	return e.s.opts.Audit.Record(context.WithoutCancel(ctx), "legal hold exported", "hold", e.hold.ID, "by", e.by, "events", b.events, "media", len(b.files), "manifest", digest)
}

// builder writes one archive.
type builder struct {
	*Export
	ctx    context.Context
	out    *archive.Writer
	names  map[string]bool            // of the folders of rooms
	covers []string                   // IDs of the rooms that the hold covers as a whole
	files  map[storage.MediaName]bool // media to be written, each once
	events int64
}

// read reads from the database, unless the export was cancelled or the hold lifted meanwhile.
func (b *builder) read(f func(tx *storage.Tx) error) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	return b.s.opts.DB.Read(b.ctx, func(tx *storage.Tx) error {
		if _, err := standing(tx, b.hold.ID, false); err != nil {
			return err
		}
		return f(tx)
	})
}

type object = map[string]any

// about writes what the hold is.
func (b *builder) about() error {
	h := b.hold
	o := object{"hold": h.ID, "reason": h.Reason, "added_by": h.AddedBy, "added": h.Added.UTC(), "review": day(h.Review), "exported_by": b.by}
	if h.User != "" {
		o["user_id"] = h.User
	}
	if h.Room != "" {
		o["room_id"], b.covers = h.Room, []string{string(h.Room)}
		also := []object{}
		for _, c := range h.Also {
			also = append(also, object{"room_id": c.Room, "since": c.Since.UTC()})
			b.covers = append(b.covers, string(c.Room))
		}
		o["also_covers"] = also
	}
	return b.out.Value("hold.json", o)
}

// rooms writes the events of the rooms, or those of the user in all rooms.
func (b *builder) rooms() error {
	for _, room := range b.covers {
		if err := b.room(func(tx *storage.Tx) (storage.RoomRow, bool, error) { return tx.RoomByID(room) }); err != nil {
			return err
		}
	}
	if b.row.User == 0 {
		return nil
	}
	for after, more := ident.RoomNID(0), true; more; {
		var page []ident.RoomNID
		err := b.read(func(tx *storage.Tx) (err error) {
			page, err = tx.RoomsOfUser(b.row.User, after, exportPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, after = range page {
			if err := b.room(func(tx *storage.Tx) (storage.RoomRow, bool, error) { return tx.RoomByNID(after) }); err != nil {
				return err
			}
		}
		more = len(page) == exportPage
	}
	return nil
}

// room writes the folder of a room.
func (b *builder) room(find func(tx *storage.Tx) (storage.RoomRow, bool, error)) error {
	var row storage.RoomRow
	var first []storage.HeldEvent
	found := false
	err := b.read(func(tx *storage.Tx) (err error) {
		if row, found, err = find(tx); err == nil && found {
			first, err = tx.HeldEvents(row.NID, b.row.User, &storage.HeldEvent{}, exportPage)
		}
		return err
	})
	if err != nil || len(first) == 0 {
		return err
	}
	folder := "rooms/" + archive.FileName(row.RoomID)
	for b.names[folder] { // IDs that differ in replaced characters only
		folder += "_"
	}
	b.names[folder] = true
	if err := b.state(folder, row); err != nil {
		return err
	}
	return b.out.Items(folder+"/events.json", func(item func(json.RawMessage) error) error {
		for page := first; len(page) > 0; {
			if err := b.page(page, item); err != nil || len(page) < exportPage {
				return err
			}
			last := page[len(page)-1]
			err := b.read(func(tx *storage.Tx) (err error) {
				page, err = tx.HeldEvents(row.NID, b.row.User, &last, exportPage)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// state writes the current state of a room: what it is called and who is in it.
func (b *builder) state(folder string, row storage.RoomRow) error {
	events := []object{}
	members := map[string]string{}
	err := b.read(func(tx *storage.Tx) error {
		state, err := tx.CurrentStates([]ident.RoomNID{row.NID})
		if err != nil {
			return err
		}
		for _, e := range state {
			if e.EventID != "" { // not a deleted entry
				events = append(events, object{"event_id": e.EventID, "event": json.RawMessage(e.JSON)})
			}
		}
		rows, err := tx.RoomMembers([]ident.RoomNID{row.NID})
		for _, m := range rows {
			members[m.UserID] = m.Membership
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.out.Value(folder+"/state.json", object{"room_id": row.RoomID, "room_version": row.Version, "state": events, "members": members})
}

// page writes events, and notes to which media they refer.
func (b *builder) page(page []storage.HeldEvent, item func(json.RawMessage) error) error {
	positions := make([]storage.Pos, len(page))
	for i := range page {
		positions[i] = page[i].Position
		raw, err := json.Marshal(described(&page[i]))
		if err != nil {
			return fmt.Errorf("event %s: %w", page[i].EventID, err)
		}
		if err := item(raw); err != nil {
			return err
		}
	}
	b.events += int64(len(page))
	return b.read(func(tx *storage.Tx) error {
		names, err := tx.MediaRefsOf(positions)
		for _, m := range names {
			b.files[m] = true
		}
		return err
	})
}

// described returns an event as it is in the archive.
func described(e *storage.HeldEvent) object {
	o := object{"event_id": e.EventID, "received": time.UnixMilli(e.ReceivedTS).UTC(), "event": json.RawMessage(e.JSON)}
	var status []string
	for _, s := range []struct {
		flag storage.EventFlags
		text string
	}{
		{storage.KeptEvent, "expired or removed; kept by a hold"}, {storage.SkeletonEvent, "content deleted before"}, {storage.RejectedEvent, "rejected"},
		{storage.SoftFailedEvent, "soft-failed"}, {storage.OutlierEvent, "not in the timeline"}, {storage.WithheldEvent, "redaction without effect"},
	} {
		if e.Flags&s.flag != 0 {
			status = append(status, s.text)
		}
	}
	if e.RedactedBy != 0 {
		status = append(status, "redacted")
	}
	if len(status) > 0 {
		o["status"] = status
	}
	if e.Original != nil {
		o["original"], o["redacted"] = json.RawMessage(e.Original), time.UnixMilli(e.RedactedTS).UTC()
	}
	return o
}

// uploads notes what a held user has uploaded.
func (b *builder) uploads() error {
	if b.row.User == 0 {
		return nil
	}
	filter := storage.MediaFilter{User: b.row.User, Before: b.out.Made.UnixMilli() + 1}
	for after, more := (storage.Media{}), true; more; {
		var page []storage.SweptMedia
		err := b.read(func(tx *storage.Tx) (err error) { page, err = tx.ListMedia(filter, after, exportPage); return err })
		if err != nil {
			return err
		}
		for _, m := range page {
			b.files[storage.MediaName{ID: m.ID}] = true
			after = m.Media
		}
		more = len(page) == exportPage
	}
	return nil
}

// media writes the files, and then their list.
func (b *builder) media() error {
	names := slices.SortedFunc(maps.Keys(b.files), func(x, y storage.MediaName) int {
		return strings.Compare(x.Server+"/"+x.ID, y.Server+"/"+y.ID)
	})
	list := []object{}
	for _, name := range names {
		o, err := b.file(name)
		if err != nil {
			return err
		}
		list = append(list, o)
	}
	return b.out.Value("media.json", list)
}

// file writes a file, if it is stored, and describes it.
func (b *builder) file(name storage.MediaName) (object, error) {
	if err := b.ctx.Err(); err != nil {
		return nil, err
	}
	server := name.Server
	if server == "" {
		server = b.s.opts.Server
	}
	o := object{"uri": fmt.Sprintf("mxc://%s/%s", server, name.ID)}
	f, err := b.s.opts.Media.OpenStored(b.ctx, name)
	var gone *mxerr.Error
	if errors.As(err, &gone) && gone.Status < 500 {
		o["missing"] = "not stored on this server"
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	path := "media/" + archive.FileName(server) + "/" + archive.FileName(name.ID)
	o["file"], o["filename"], o["content_type"], o["size"], o["stored"] = path, f.Filename, f.ContentType, f.Size, f.Created.UTC()
	if f.Quarantined {
		o["quarantined"] = true
	}
	err = b.out.Add(path, zip.Store, func(w io.Writer) error { return b.copyFile(w, f) })
	return o, errors.Join(err, f.Close())
}

func (b *builder) copyFile(w io.Writer, f media.Stored) error {
	for {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(w, f.Content, 1<<20); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// reports writes what users have reported about what the hold covers, and what a held user has reported.
func (b *builder) reports() error {
	return b.out.Items("held_reports.json", func(item func(json.RawMessage) error) error {
		for after, more := int64(0), true; more; {
			var rows []storage.Report
			err := b.read(func(tx *storage.Tx) (err error) { rows, err = tx.Reports(after, exportPage); return err })
			if err != nil {
				return err
			}
			for _, r := range rows {
				after = r.NID
				if !slices.Contains(b.covers, r.Room) && (b.hold.User == "" || r.User != string(b.hold.User) && r.Reporter != b.row.User) {
					continue
				}
				o := object{"time": time.UnixMilli(r.TS).UTC(), "reporter": r.ReporterID, "room_id": r.Room, "event_id": r.Event, "user_id": r.User, "reason": r.Reason}
				if r.Profile != "" {
					o["profile"] = json.RawMessage(r.Profile)
				}
				raw, err := json.Marshal(o)
				if err == nil {
					err = item(raw)
				}
				if err != nil {
					return err
				}
			}
			more = len(rows) == exportPage
		}
		return nil
	})
}

// account writes what is stored about a held user.
func (b *builder) account() error {
	if b.row.User == 0 {
		return nil
	}
	return b.s.opts.Accounts.WriteAccount(b.ctx, b.out, b.row.User, b.hold.User)
}

const readme = `What legal hold %d on %s covers, exported for %s by %s at %s.

hold.json
    The hold: its reason, who has added it, and the rooms that it covers.
rooms/ROOM/events.json
    The events, those first that are in no timeline, the others in the order of the timeline. "event" is the event as the server stores
    it, with its hash and signatures. "original" is what a redacted event was before. "status" says what has happened to it. Messages of
    encrypted rooms are encrypted: the server does not have their keys.
rooms/ROOM/state.json
    What is known about the room now: its name and other settings, and who is or was a member.
media.json, media/SERVER/ID
    The files to which the events refer, and what a held user has uploaded. Files in encrypted rooms are encrypted, and the server does
    not know which of them belong to a held room unless the hold is on their sender.
held_reports.json
    What users have reported to the administrators about this room or user, and what a held user has reported.
account.json, profile.json, devices.json, …
    For a hold on a user: what else is stored about the user. Secrets are not included.
manifest.json, signature.txt
    The hash of every file, and the server's signature of that list. "ebb export verify" checks them.

Times are in UTC. What was deleted before the hold was added is not included, nor what other servers and clients have.
`

func (b *builder) readme() error {
	on := string(b.hold.User) + string(b.hold.Room)
	return b.out.Add(archive.ReadmeName, zip.Deflate, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, readme, b.hold.ID, on, b.by, b.s.opts.Server, b.out.Made.Format("2006-01-02 15:04 UTC"))
		return err
	})
}
