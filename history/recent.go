package history

import (
	"context"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/visibility"
	"ebb/storage"
)

// View is one requester's view of a room during one response.
type View struct {
	svc  *Service
	room *rooms.Room
	to   ident.Requester
	v    *viewer
	seen []seenEvent // the events found by Visible
}

type seenEvent struct {
	pos storage.Pos
	at  sight
}

// View returns the given requester's view of a room. Only one goroutine may use it.
func (s *Service) View(room *rooms.Room, to ident.Requester) *View {
	return &View{svc: s, room: room, to: to}
}

// open creates the viewer when it is first used.
func (w *View) open(ctx context.Context, tx *storage.Tx) (err error) {
	if w.v == nil {
		w.v, err = w.svc.viewer(ctx, tx, w.room, w.to)
	}
	return err
}

// Visible is like Service.Visible, but for the view's requester.
func (w *View) Visible(ctx context.Context, tx *storage.Tx, evs []*rooms.Event) (visible []*rooms.Event, err error) {
	err = w.svc.withTx(ctx, tx, func(tx *storage.Tx) error {
		if err := w.open(ctx, tx); err != nil {
			return err
		}
		var sights []sight
		if visible, sights, err = w.v.filter(tx, evs); err != nil {
			return err
		}
		for i, e := range visible {
			w.seen = append(w.seen, seenEvent{e.Pos, sights[i]})
		}
		return nil
	})
	return visible, err
}

// Append appends events, comma separated, in the form for the requester. The caller must know that the requester may
// see the events, for example because Visible returned them. The parts that are the same for all requesters are made
// once per event.
// Spec: client-server-api#definition-clientevent
func (w *View) Append(ctx context.Context, tx *storage.Tx, dst []byte, evs []*rooms.Event, opt FormOptions) (out []byte, err error) {
	err = w.svc.withTx(ctx, tx, func(tx *storage.Tx) error {
		if err := w.open(ctx, tx); err != nil {
			return err
		}
		x, err := w.v.extras(tx, evs, opt)
		if err != nil {
			return err
		}
		out = dst
		for i, e := range evs {
			at := w.at(e)
			if e, err = w.v.shown(e, at); err != nil {
				return err
			}
			if i > 0 {
				out = append(out, ',')
			}
			out = w.v.append(out, e, at.membership, x, opt)
		}
		return nil
	})
	return out, err
}

func (w *View) at(e *rooms.Event) sight {
	for i := range w.seen {
		if w.seen[i].pos == e.Pos {
			return w.seen[i].at
		}
	}
	return sight{}
}

// AppendState appends events of a room's state, comma separated. The caller has checked that the client may see this
// state: history visibility is not applied to the single events. The events are appended without additional data such
// as aggregations.
func (s *Service) AppendState(ctx context.Context, tx *storage.Tx, dst []byte, room *rooms.Room, evs []*rooms.Event, to ident.Requester) ([]byte, error) {
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
		dst = v.beginUnsigned(dst, e)
		if at.membership != "" {
			dst = append(dst, `,"membership":"join"`...)
		}
		dst = append(dst, `}}`...)
	}
	return dst, nil
}

// Shown returns the given events. It replaces an event of an erased user by its redacted copy, if the requester may not
// see it in full.
func (s *Service) Shown(ctx context.Context, tx *storage.Tx, room *rooms.Room, evs []*rooms.Event, to ident.Requester) (shown []*rooms.Event, err error) {
	err = s.withTx(ctx, tx, func(tx *storage.Tx) error {
		v, err := s.viewer(ctx, tx, room, to)
		if err != nil {
			return err
		}
		shown = make([]*rooms.Event, len(evs))
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
