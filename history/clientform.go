package history

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/visibility"
	"ebb/storage"
)

// FormOptions determine the form in which events are sent to a client.
type FormOptions struct {
	RoomID bool // include room_id, as everywhere except in /sync
	Bundle bool // include aggregated relations

	reply bool // a thread reply, which cannot be the root of another thread
}

// forms returns the forms of events that are known to be visible.
func (v *viewer) forms(tx *storage.Tx, evs []*rooms.Event, sights []sight, opt FormOptions) ([]json.RawMessage, error) {
	x, err := v.extras(tx, evs, opt)
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, len(evs))
	for i, e := range evs {
		if e, err = v.shown(e, sights[i]); err != nil {
			return nil, err
		}
		out[i] = v.append(nil, e, sights[i].membership, x, opt)
	}
	return out, nil
}

// one returns the form of a single event that is known to be visible.
func (v *viewer) one(tx *storage.Tx, e *rooms.Event, at sight, opt FormOptions) (json.RawMessage, error) {
	forms, err := v.forms(tx, []*rooms.Event{e}, []sight{at}, opt)
	if err != nil {
		return nil, err
	}
	return forms[0], nil
}

// shown returns the event or its redacted copy. The events of an erased user are shown in full only to users who were
// in the room before the erasure.
func (v *viewer) shown(e *rooms.Event, at sight) (*rooms.Event, error) {
	erased, ok := v.svc.rooms.ErasedAt(e.SenderNID)
	if !ok || at.membership == visibility.Join || v.joined && v.joinedPos < erased || e.SenderNID == v.to.UserNID {
		return e, nil
	}
	return e.RedactedCopy()
}

// extras is the data that a page of events needs besides the events themselves.
type extras struct {
	former     map[storage.Pos]*rooms.Event // state event → the event that it replaced
	showFormer map[storage.Pos]bool         // state event → whether the viewer may see the replaced event
	redactions map[storage.Pos]json.RawMessage
	bundles    map[storage.Pos][]byte // event → the value of m.relations
}

func (v *viewer) extras(tx *storage.Tx, evs []*rooms.Event, opt FormOptions) (*extras, error) {
	x := &extras{}
	if err := v.loadFormer(tx, evs, x); err != nil {
		return nil, err
	}
	if err := v.loadRedactions(tx, evs, x); err != nil {
		return nil, err
	}
	if !opt.Bundle {
		return x, nil
	}
	var err error
	x.bundles, err = v.bundles(tx, evs, opt)
	return x, err
}

// loadFormer loads the events that were replaced by the state events among evs.
func (v *viewer) loadFormer(tx *storage.Tx, evs []*rooms.Event, x *extras) error {
	replaced, err := v.formerOf(tx, evs)
	if err != nil || len(replaced) == 0 {
		return err
	}
	if tx == nil {
		return errNeedTx
	}
	events, err := v.room.EventsAt(tx, slices.Collect(maps.Values(replaced)))
	if err != nil {
		return err
	}
	return v.showFormer(tx, replaced, events, x)
}

// formerOf returns, for each state event among evs that replaced another event, the position of that event. The keys
// are the positions of the state events.
func (v *viewer) formerOf(tx *storage.Tx, evs []*rooms.Event) (map[storage.Pos]storage.Pos, error) {
	replaced := map[storage.Pos]storage.Pos{}
	err := v.svc.lookUpFormer(tx, evs, func(e *rooms.Event, before storage.Pos) {
		if before != 0 {
			replaced[e.Pos] = before
		}
	})
	return replaced, err
}

// PreloadFormer looks up which events the state events among evs replaced. The events may be of different rooms. Forms
// of these events then find it in memory.
func (s *Service) PreloadFormer(tx *storage.Tx, evs []*rooms.Event) error {
	return s.lookUpFormer(tx, evs, func(*rooms.Event, storage.Pos) {})
}

// lookUpFormer calls f for each state event among evs with the position of the event that it replaced, or 0.
func (s *Service) lookUpFormer(tx *storage.Tx, evs []*rooms.Event, f func(e *rooms.Event, before storage.Pos)) error {
	var open []*rooms.Event
	var wanted []storage.StateKey
	for _, e := range evs {
		key, isState := e.StateKey()
		if !isState || e.Snapshot == 0 {
			continue
		}
		if before, known := s.former.Get(e.Pos); known {
			f(e, before)
		} else {
			open, wanted = append(open, e), append(wanted, storage.StateKey{Snapshot: e.Snapshot, Type: e.Type(), Key: key})
		}
	}
	if len(open) == 0 {
		return nil
	}
	if tx == nil {
		return errNeedTx
	}
	found, err := tx.StateKeysOf(wanted)
	if err != nil {
		return err
	}
	for i, e := range open {
		s.former.Put(e.Pos, found[wanted[i]])
		f(e, found[wanted[i]])
	}
	return nil
}

func (v *viewer) showFormer(tx *storage.Tx, replaced map[storage.Pos]storage.Pos, events map[storage.Pos]*rooms.Event, x *extras) error {
	x.former, x.showFormer = map[storage.Pos]*rooms.Event{}, map[storage.Pos]bool{}
	var evs []*rooms.Event
	var by []storage.Pos
	for pos, before := range replaced {
		if e := events[before]; e != nil {
			evs, by = append(evs, e), append(by, pos)
		}
	}
	sights, err := v.sights(tx, evs)
	if err != nil {
		return err
	}
	for i, e := range evs {
		if x.former[by[i]], err = v.shown(e, sights[i]); err != nil {
			return err
		}
		// An outlier was received as part of a state. Anyone who may see the event that replaced it may see that state
		// too.
		x.showFormer[by[i]] = sights[i].visible || e.Flags&storage.HiddenEvent == storage.OutlierEvent
	}
	return nil
}

// loadRedactions finds the redactions of the redacted events among evs that the viewer may see.
func (v *viewer) loadRedactions(tx *storage.Tx, evs []*rooms.Event, x *extras) error {
	var positions []storage.Pos
	for _, e := range evs {
		if e.RedactedBy != 0 {
			positions = append(positions, e.RedactedBy)
		}
	}
	if len(positions) == 0 {
		return nil
	}
	if tx == nil {
		return errNeedTx
	}
	events, err := v.room.EventsAt(tx, positions)
	if err != nil {
		return err
	}
	var redactions []*rooms.Event
	for _, e := range events {
		if e != nil {
			redactions = append(redactions, e)
		}
	}
	visible, sights, err := v.filter(tx, redactions)
	if err != nil {
		return err
	}
	x.redactions = make(map[storage.Pos]json.RawMessage, len(visible))
	for i, e := range visible {
		x.redactions[e.Pos] = v.append(nil, e, sights[i].membership, &extras{}, FormOptions{})
	}
	return nil
}

// appendRequest appends the ID by which the sender's client recognises its request. Only the device that sent the event
// gets the transaction ID; all devices of the sender get the ID of a delayed event.
// Spec: client-server-api#transaction-identifiers, MSC4140
func appendRequest(dst []byte, e *rooms.Event, device ident.DeviceNID) []byte {
	switch e.DeviceNID {
	case 0:
		return dst
	case device:
		dst = append(dst, `,"transaction_id":`...)
	case ident.DelayedSend:
		dst = append(dst, `,"org.matrix.msc4140.delay_id":`...)
	default:
		return dst
	}
	return canonjson.AppendString(dst, e.TxnID)
}

// beginUnsigned opens the object unsigned and appends the keys whose values depend on the time: the age, and for how
// long the event will still be sticky.
func (v *viewer) beginUnsigned(dst []byte, e *rooms.Event) []byte {
	now := v.now.UnixMilli()
	dst = append(dst, `,"unsigned":{"age":`...)
	dst = strconv.AppendInt(dst, now-e.OriginServerTS(), 10)
	if until := e.StickyUntil(); until > now {
		dst = append(dst, `,"msc4354_sticky_duration_ttl_ms":`...)
		dst = strconv.AppendInt(dst, until-now, 10)
	}
	return dst
}

// append appends one event: the shared form with unsigned inserted before its last byte.
func (v *viewer) append(dst []byte, e *rooms.Event, at visibility.Membership, x *extras, opt FormOptions) []byte {
	form := e.Form(opt.RoomID)
	bundle := x.bundles[e.Pos]
	if dst == nil {
		dst = make([]byte, 0, len(form)+len(bundle)+192)
	}
	dst = append(dst, form[:len(form)-1]...)
	dst = v.beginUnsigned(dst, e)
	dst = append(dst, `,"membership":`...)
	dst = canonjson.AppendString(dst, string(at))
	if e.TxnID != "" && e.SenderNID == v.to.UserNID {
		dst = appendRequest(dst, e, v.to.DeviceNID)
	}
	if former := x.former[e.Pos]; former != nil {
		dst = append(dst, `,"replaces_state":`...)
		dst = canonjson.AppendString(dst, string(former.ID()))
		// Clients use the sender of an invite to identify who started a direct chat.
		dst = append(dst, `,"prev_sender":`...)
		dst = canonjson.AppendString(dst, string(former.Sender()))
		if x.showFormer[e.Pos] {
			dst = append(append(dst, `,"prev_content":`...), former.Content()...)
		}
	}
	if because := x.redactions[e.RedactedBy]; e.RedactedBy != 0 && because != nil {
		dst = append(append(dst, `,"redacted_because":`...), because...)
	}
	if bundle != nil {
		dst = append(append(dst, `,"m.relations":`...), bundle...)
	}
	return append(dst, "}}"...)
}
