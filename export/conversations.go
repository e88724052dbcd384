package export

import (
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/export/archive"
	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// pages reads the events of a room that may be exported, a part at a time.
type pages struct {
	b    *builder
	room ident.RoomNID
	// read returns events of the room after an order, where it continues, and whether there may be more.
	read func(room *rooms.Room, after ident.Order) (events []*rooms.Event, next ident.Order, more bool, err error)
	next ident.Order
	end  bool
	id   id.RoomID // of the room, after the first page
}

// page returns the next events that are exported, or none at the end.
func (p *pages) page() (forms []json.RawMessage, err error) {
	for len(forms) == 0 && !p.end {
		if err := p.b.ctx.Err(); err != nil {
			return nil, err
		}
		room, err := p.b.s.opts.Rooms.RoomByNID(p.b.ctx, p.room) // with its current policy
		if errors.Is(err, rooms.ErrNoRoom) {                     // it was removed meanwhile, so the archive is written again
			p.end = true
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		p.id = room.ID()
		events, next, more, err := p.read(room, p.next)
		if err != nil {
			return nil, err
		}
		p.next, p.end = next, !more
		if forms, err = p.b.admitted(room, events); err != nil {
			return nil, err
		}
	}
	return forms, nil
}

// perRoom writes a file in a folder for every room of the user with events that read returns (see pages).
func (b *builder) perRoom(folder string, read func(room *rooms.Room, after ident.Order) ([]*rooms.Event, ident.Order, bool, error)) error {
	names := map[string]bool{}
	for _, m := range b.members {
		p := &pages{b: b, room: m.Room, read: read}
		first, err := p.page()
		if err != nil {
			return err
		}
		if len(first) == 0 {
			continue
		}
		name := archive.FileName(string(p.id))
		for names[name] { // IDs that differ in replaced characters only
			name += "_"
		}
		names[name] = true
		if err := b.writePages(folder+"/"+name+".json", first, p); err != nil {
			return err
		}
	}
	return nil
}

// writePages writes a file with the events of a page and of those that follow.
func (b *builder) writePages(name string, first []json.RawMessage, p *pages) error {
	return b.out.Items(name, func(item func(json.RawMessage) error) (err error) {
		for forms := first; len(forms) > 0; {
			for _, form := range forms {
				if err := item(form); err != nil {
					return err
				}
			}
			if forms, err = p.page(); err != nil {
				return err
			}
		}
		return nil
	})
}

// conversations writes a file for every room with messages that the user may read, if the export is to have them.
func (b *builder) conversations() error {
	if !b.e.status.Conversations {
		return nil
	}
	user := ident.Requester{UserNID: b.user, UserID: b.e.user}
	return b.perRoom("conversations", func(room *rooms.Room, after ident.Order) ([]*rooms.Event, ident.Order, bool, error) {
		return b.s.opts.History.Readable(b.ctx, room, user, after, page)
	})
}

// admitted returns the forms of those of the given events that are exported. They are recorded before it is checked
// once more that they are not redacted: an event that is redacted later ends the export.
func (b *builder) admitted(room *rooms.Room, events []*rooms.Event) (forms []json.RawMessage, err error) {
	var chosen []*rooms.Event
	var positions []storage.Pos
	for _, e := range events {
		at := admission{e.Pos, e.IsState(), e.OriginServerTS(), e.ReceivedTS}
		if e.RedactedBy == 0 && !e.Hidden() && b.admit(room, at) {
			chosen, positions = append(chosen, e), append(positions, e.Pos)
		}
	}
	if len(chosen) == 0 {
		return nil, nil
	}
	var shown map[storage.Pos]bool
	if err := b.read(func(tx *storage.Tx) (err error) { shown, err = tx.StillShown(positions); return err }); err != nil {
		return nil, err
	}
	for _, e := range chosen {
		if shown[e.Pos] {
			forms = append(forms, e.Form(true))
		}
	}
	return forms, nil
}

// admission is what decides for how long an event may be exported.
type admission struct {
	position             storage.Pos
	isState              bool
	originTS, receivedTS int64
}

func admissionOf(row *storage.EventRow) admission {
	return admission{row.Position, row.IsState, row.OriginTS, row.ReceivedTS}
}

// admit reports whether an event that is shown lives long enough to be exported. It records the event, so that the
// export ends with it.
func (b *builder) admit(room *rooms.Room, at admission) bool {
	policy, now := room.Retention(), b.s.opts.Now()
	if !at.isState && expiry.Expired(policy, at.originTS, at.receivedTS, now.Add(marginOf(policy))) {
		if !expiry.Expired(policy, at.originTS, at.receivedTS, now) {
			b.leftOut[at.position] = true
		}
		return false
	}
	b.e.contents.add(room.NID(), at.position, at.isState, at.originTS, at.receivedTS)
	return true
}
