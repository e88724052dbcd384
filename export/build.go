package export

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/export/archive"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

const (
	// page is how many rows are read at a time, and window how many events of a room are examined at a time.
	page   = 500
	window = 5000
)

const conversationsName = "conversations/ROOM.json"

// section is a part of the archive: some files of it, and what the README says about them.
type section struct {
	name, about string
	write       func(b *builder) error
	content     bool // messages or files
}

// sections returns the parts of an archive in their order.
func sections() []section {
	return []section{
		{"account.json", "Your account: when it was created, its e-mail addresses, accounts at other services that sign you in, second factors (never their secrets), and after what time your messages are deleted.", (*builder).account, false},
		{"profile.json", "Your profile, as others see it.", (*builder).profile, false},
		{"devices.json", "The devices and clients that are signed in, with the address and program of their last request, and their public keys.", (*builder).devices, false},
		{"browsers.json", "Browsers that are signed in to the account page.", (*builder).browsers, false},
		{"sign_ins.json", "When and how your devices have signed in, with which clients, what is signing in or waits for your approval, and when you last signed in from each known network (not which).", (*builder).signIns, false},
		{"account_data.json", "What your clients have stored: settings, direct chats, ignored users, tags, read markers. Some of it is encrypted by your client.", (*builder).accountData, false},
		{"push_rules.json", "Your rules for notifications; null if you have not changed them.", (*builder).pushRules, false},
		{"pushers.json", "The apps that are sent notifications.", (*builder).pushers, false},
		{"rooms.json", "The rooms in which you are or were, or to which you were invited, with the event that says so, and what you were shown of the room with the invite.", (*builder).rooms, false},
		{"messages/ROOM.json", "What you have sent to each room, the oldest first: messages, reactions, redactions and changes of the room. ROOM is the ID of the room; characters other than letters, digits, dots and hyphens are replaced by underscores. Messages in encrypted rooms are encrypted: only your clients have the keys. Messages that were redacted or have expired are not stored any more, and those that expire soon are left out.", (*builder).messages, true},
		{conversationsName, "The messages of each room that you may read, those of others included, the oldest first. Messages of users whom you ignore are left out, and rooms that you have forgotten.", (*builder).conversations, true},
		{"originals.json", "Messages that you have sent and that were redacted, as they were before, while this server keeps them for the moderators of the room. Those that are deleted soon are left out.", (*builder).originals, true},
		{"receipts.json", "How far you have read in each room.", (*builder).receipts, false},
		{"delayed_events.json", "Messages that are to be sent later, or recently were, without their content.", (*builder).delayed, false},
		{"reports.json", "What you have reported to the administrators.", (*builder).reports, false},
		{"audit.json", "Records of the audit log that name you: sign-ins, changes of the account, and what administrators did with it.", (*builder).audit, false},
		{"other.json", "What else is stored: filters of your clients, addresses that you gave to rooms, your public keys and whose keys you have signed, key backups (without the keys), threads that you follow, messages from this server that are on their way to you, and requests to delete your messages.", (*builder).other, false},
		{"media.json", "The files that you have uploaded, with their names, types and sizes.", (*builder).media, true},
		{"media/ID", "The files themselves. Attachments of encrypted rooms are encrypted.", nil, true},
	}
}

// builder builds one export.
type builder struct {
	s       *Service
	ctx     context.Context
	e       *export
	user    ident.UserNID
	out     *archive.Writer
	members []rooms.RoomMembership
	leftOut map[storage.Pos]bool // messages that expire too soon
}

// build writes the archive.
func (s *Service) build(ctx context.Context, e *export) error {
	if err := os.MkdirAll(s.opts.Dir, 0o700); err != nil {
		return err
	}
	file, err := createSecret(e.path, s.opts.size)
	if err != nil {
		return err
	}
	s.mu.Lock()
	e.file = file
	s.mu.Unlock()
	b := &builder{s: s, ctx: ctx, e: e, leftOut: map[storage.Pos]bool{}, user: e.owner.User, out: archive.NewWriter(file, s.opts.Now().UTC())}
	if b.members, err = s.opts.Rooms.Memberships(ctx, b.user); err != nil {
		return err
	}
	var readme strings.Builder
	fmt.Fprintf(&readme, "What %s stores about %s, as of %s.\n\n", s.opts.Server, e.user, b.out.Made.Format("2006-01-02 15:04 UTC"))
	for _, part := range sections() {
		if part.write != nil {
			if err := part.write(b); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
		if part.name != conversationsName || e.status.Conversations {
			fmt.Fprintf(&readme, "%s\n    %s\n", part.name, part.about)
		}
	}
	fmt.Fprintf(&readme, "%s, %s\n    The hash of every file, and the server's signature of that list. \"ebb export verify\" checks them.\n\n"+
		"Not included, because they are secret or of no use without the server: passwords, access tokens and other secrets, which are stored only as hashes; "+
		"the backup of your encryption keys, which your client can export; files of others, and their messages unless you have asked for them; what other servers store about you. Times are in UTC, or in milliseconds since 1970.\n", archive.ManifestName, archive.SignatureName)
	if err := b.out.Add(archive.ReadmeName, zip.Deflate, func(w io.Writer) error { _, err := io.WriteString(w, readme.String()); return err }); err != nil {
		return err
	}
	err = b.out.Finish(archive.Manifest{Server: s.opts.Server, User: string(e.user), LeftOut: int64(len(b.leftOut)), Conversations: e.status.Conversations}, b.sign)
	s.mu.Lock()
	e.status.LeftOut = int64(len(b.leftOut))
	s.mu.Unlock()
	return err
}

// WriteAccount writes the parts of an export that are neither messages nor files to an archive. It is for users under a
// legal hold, whose messages and files package holds exports.
func (s *Service) WriteAccount(ctx context.Context, out *archive.Writer, user ident.UserNID, name id.UserID) (err error) {
	b := &builder{s: s, ctx: ctx, leftOut: map[storage.Pos]bool{}, e: &export{owner: Owner{User: user, Admin: true}, user: name}, user: user, out: out}
	if b.members, err = s.opts.Rooms.Memberships(ctx, user); err != nil {
		return err
	}
	for _, part := range sections() {
		if part.write == nil || part.content {
			continue
		}
		if err := part.write(b); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func (b *builder) sign(text string) ([]byte, error) {
	signed, key, err := b.s.opts.Audit.Sign(b.ctx, text)
	b.s.mu.Lock()
	b.e.status.Key = key
	b.s.mu.Unlock()
	return signed, err
}

// read reads from the database, or stops if the export has been cancelled.
func (b *builder) read(f func(tx *storage.Tx) error) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	return b.s.opts.DB.Read(b.ctx, f)
}

// messages writes a file for every room to which the user has sent something.
func (b *builder) messages() error { return b.perRoom("messages", b.sent) }

// sent reads what the user has sent to a room (see pages).
func (b *builder) sent(room *rooms.Room, after ident.Order) (events []*rooms.Event, next ident.Order, more bool, err error) {
	var rows []storage.EventRow
	err = b.read(func(tx *storage.Tx) (err error) {
		rows, next, more, err = tx.SentEvents(room.NID(), b.user, after, window, page)
		return err
	})
	if err == nil {
		events, err = room.LoadEvents(rows)
	}
	return events, next, more, err
}

// originals writes what redacted events of the user were before the redaction, as long as moderators may read that.
// What only a legal hold keeps is shown to nobody.
func (b *builder) originals() error {
	return b.out.Items("originals.json", func(item func(json.RawMessage) error) error {
		for _, m := range b.members {
			for after, more := storage.Pos(0), true; more; {
				forms, last, err := b.originalsOf(m.Room, after)
				if err != nil {
					return err
				}
				for _, form := range forms {
					if err := item(form); err != nil {
						return err
					}
				}
				more, after = last != 0, last
			}
		}
		return nil
	})
}

// originalsOf returns the next originals of a room after a position, and the last position that it has read, or 0 at
// the end. The export ends before the first of them must not be shown any more. Like messages, they are recorded
// before they are read for the archive.
func (b *builder) originalsOf(nid ident.RoomNID, after storage.Pos) (forms []json.RawMessage, last storage.Pos, err error) {
	keep := b.s.opts.Rooms.RetentionPolicy().Redacted
	if keep == 0 {
		return nil, 0, nil
	}
	room, err := b.s.opts.Rooms.RoomByNID(b.ctx, nid)
	if errors.Is(err, rooms.ErrNoRoom) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	list, rows, err := b.readOriginals(nid, after, keep)
	if err != nil {
		return nil, 0, err
	}
	if len(list) == page {
		last = list[page-1].Position
	}
	admitted := map[storage.Pos]bool{}
	for i := range list {
		if row := rows[list[i].Position]; row != nil && row.Flags&storage.HiddenEvent == 0 && b.admit(room, admissionOf(row)) {
			admitted[row.Position] = true
			b.e.contents.endBy(time.UnixMilli(list[i].RedactedTS).Add(keep))
		}
	}
	if len(admitted) == 0 {
		return nil, last, nil
	}
	if list, rows, err = b.readOriginals(nid, after, keep); err != nil {
		return nil, 0, err
	}
	for i := range list {
		row := rows[list[i].Position]
		if row == nil || !admitted[row.Position] || !b.s.opts.Rooms.OriginalReadable(&list[i]) {
			continue
		}
		row.JSON = list[i].JSON
		e, err := room.LoadEvent(row)
		if err != nil {
			return nil, 0, err
		}
		forms = append(forms, e.Form(true))
	}
	return forms, last, nil
}

// readOriginals reads originals of a room that are kept for long enough, with the rows of their events.
func (b *builder) readOriginals(nid ident.RoomNID, after storage.Pos, keep time.Duration) (list []storage.Original, rows map[storage.Pos]*storage.EventRow, err error) {
	redactedAfter := b.s.opts.Now().Add(marginOf(expiry.Policy{Max: &keep}) - keep).UnixMilli()
	rows = map[storage.Pos]*storage.EventRow{}
	err = b.read(func(tx *storage.Tx) (err error) {
		if list, err = tx.ReadableOriginals(storage.KeptBy{Room: nid, Sender: b.user}, after, redactedAfter, page); err != nil {
			return err
		}
		positions := make([]storage.Pos, len(list))
		for i := range list {
			positions[i] = list[i].Position
		}
		found, err := tx.EventsAt(positions)
		for i := range found {
			rows[found[i].Position] = &found[i]
		}
		return err
	})
	return list, rows, err
}

// upload describes a file in media.json.
type upload struct {
	ID       string `json:"media_id"`
	File     string `json:"file"` // in the archive
	Filename string `json:"filename"`
	Type     string `json:"content_type"`
	Size     int64  `json:"size"`
	Created  int64  `json:"created_ts"`
}

// media writes the files that the user has uploaded, and then their list.
func (b *builder) media() error {
	list := []upload{}
	for after, more := (storage.Media{}), true; more; {
		var rows []storage.SweptMedia
		err := b.read(func(tx *storage.Tx) (err error) {
			rows, err = tx.ListMedia(storage.MediaFilter{User: b.user, Before: b.out.Made.UnixMilli() + 1}, after, page)
			return err
		})
		if err != nil {
			return err
		}
		for i := range rows {
			written, err := b.file(&rows[i])
			if err != nil {
				return err
			}
			if m := &rows[i]; written {
				list = append(list, upload{m.ID, "media/" + m.ID, m.Filename, m.ContentType, m.Size, m.Created})
			}
		}
		if more = len(rows) == page; more {
			after = rows[len(rows)-1].Media
		}
	}
	return b.out.Value("media.json", list)
}

// file writes an upload. It returns false if the upload is not shown any more, or not for long.
func (b *builder) file(m *storage.SweptMedia) (written bool, err error) {
	if m.Quarantined || m.Expires != 0 {
		return false, nil
	}
	b.e.contents.addMedia(m.ID)
	lives, err := b.lives(m)
	if err != nil || !lives {
		return false, err
	}
	in, err := b.s.opts.Files.OpenUpload(b.ctx, m.ID)
	var gone *mxerr.Error
	switch {
	case errors.As(err, &gone) && gone.Status < 500:
		return false, nil
	case err != nil:
		return false, err
	}
	err = b.out.Add("media/"+m.ID, zip.Store, func(w io.Writer) error {
		_, err := io.Copy(w, &cancelled{b.ctx, in})
		return err
	})
	return err == nil, errors.Join(err, in.Close())
}

// lives reports whether something refers to an upload that is shown for long enough, and records one such event, so
// that the export ends with it. Uploads to which nothing refers may belong to encrypted messages.
func (b *builder) lives(m *storage.SweptMedia) (bool, error) {
	if !m.Referenced {
		return true, nil
	}
	for after := storage.FirstMediaRef; ; {
		var refs []storage.MediaRef
		err := b.read(func(tx *storage.Tx) (err error) {
			refs, err = tx.MediaRefs(storage.MediaName{ID: m.ID}, after, page)
			return err
		})
		if err != nil {
			return false, err
		}
		for _, ref := range refs {
			if ref.Kind != storage.MessageMedia {
				return true, nil
			}
			room, err := b.s.opts.Rooms.RoomByNID(b.ctx, ref.Room)
			if errors.Is(err, rooms.ErrNoRoom) { // it is being removed, and its messages with it
				continue
			}
			if err != nil {
				return false, err
			}
			policy := room.Retention()
			if ref.Flags&storage.HiddenEvent == 0 && !expiry.Expired(policy, ref.OriginTS, ref.ReceivedTS, b.s.opts.Now().Add(marginOf(policy))) {
				b.e.contents.add(ref.Room, storage.Pos(ref.Owner), false, ref.OriginTS, ref.ReceivedTS)
				return true, nil
			}
		}
		if len(refs) < page {
			return false, nil
		}
		after = refs[len(refs)-1]
	}
}

// cancelled is a reader that stops when a context ends.
type cancelled struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}
