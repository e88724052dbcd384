package rooms

import (
	"context"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/visibility"
	"ebb/storage"
)

// Ring is the newest committed timeline events in memory, oldest first, hidden ones left out; it holds everything after
// the position reach. The caller must not change it.
func (r *Room) Ring() (events []*Event, reach storage.Pos) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ring := r.head.ring
	return ring[:len(ring):len(ring)], r.head.ringOK
}

// LoadEvents makes the events of stored rows of the room, in their order.
func (r *Room) LoadEvents(rows []storage.EventRow) ([]*Event, error) {
	out := make([]*Event, len(rows))
	for i := range rows {
		e, err := fromRow(r.version, &rows[i])
		if err != nil {
			return nil, err
		}
		out[i] = e
	}
	return out, nil
}

// AppendState appends, comma separated, events of a state of the room as a client gets them that may read that state: no
// history visibility applies, and no more is told of each than the event itself.
func (s *Service) AppendState(ctx context.Context, tx *storage.Tx, dst []byte, room *Room, evs []*Event, to Recipient) ([]byte, error) {
	var v *viewer
	err := s.withTx(ctx, tx, func(tx *storage.Tx) (err error) {
		v, err = s.viewer(ctx, tx, room, to)
		return err
	})
	if err != nil {
		return dst, err
	}
	for i, e := range evs {
		var at sight
		if v.duringJoin(e) {
			at.membership = visibility.Join
		}
		if e, err = v.shown(e, at); err != nil {
			return dst, err
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		form := e.Form(false)
		dst = append(dst, form[:len(form)-1]...)
		dst = append(dst, `,"unsigned":{"age":`...)
		dst = strconv.AppendInt(dst, v.now.UnixMilli()-e.OriginServerTS(), 10)
		if at.membership != "" {
			dst = append(dst, `,"membership":"join"`...)
		}
		dst = append(dst, `}}`...)
	}
	return dst, nil
}

// Shown is the events themselves, or their redacted copies where an erased user's are not for this recipient.
func (s *Service) Shown(ctx context.Context, tx *storage.Tx, room *Room, evs []*Event, to Recipient) (shown []*Event, err error) {
	err = s.withTx(ctx, tx, func(tx *storage.Tx) error {
		v, err := s.viewer(ctx, tx, room, to)
		if err != nil {
			return err
		}
		shown = make([]*Event, len(evs))
		for i, e := range evs {
			var at sight
			if v.duringJoin(e) {
				at.membership = visibility.Join
			}
			if shown[i], err = v.shown(e, at); err != nil {
				return err
			}
		}
		return nil
	})
	return shown, err
}

// Ignores lists the users whom a local user ignores; the caller must not change it.
func (s *Service) Ignores(ctx context.Context, tx *storage.Tx, user int64) (ignored map[id.UserID]struct{}, err error) {
	err = s.withTx(ctx, tx, func(tx *storage.Tx) (err error) {
		ignored, err = s.ignored(ctx, tx, user)
		return err
	})
	return ignored, err
}
