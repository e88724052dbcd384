package history

import (
	"context"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/visibility"
	"ebb/storage"
)

type pastKey struct {
	snapshot int64
	user     ident.UserNID
}

// past holds the part of the state before an event on which the visibility of the event depends.
type past struct {
	history    visibility.History
	membership visibility.Membership
}

type joinedKey struct {
	room   ident.RoomNID
	user   ident.UserNID
	member storage.Pos // the current m.room.member event
}

// errNeedTx means that memory is not sufficient: the call has to be repeated inside db.Read.
var errNeedTx = errors.New("a database read is needed")

// withTx runs f with tx. If tx is nil, it runs f without one, and repeats it inside a read if it returns errNeedTx.
// Until then f must have no effect.
func (s *Service) withTx(ctx context.Context, tx *storage.Tx, f func(*storage.Tx) error) error {
	if tx != nil {
		return f(tx)
	}
	if err := f(nil); !errors.Is(err, errNeedTx) {
		return err
	}
	return s.db.Read(ctx, f)
}

// viewer is one user's view of a room during one request.
type viewer struct {
	svc  *Service
	room *rooms.Room
	to   ident.Requester
	now  time.Time

	joined    bool
	joinedPos storage.Pos   // start of the current uninterrupted join
	member    *rooms.Member // nil: the user was never in the room
	ignored   map[id.UserID]struct{}
	policy    expiry.Policy

	lastJoin *ident.Order    // see joinedUntil
	bundled  int             // bytes read for aggregations so far
	ahead    *relationsAhead // what was read for all aggregations of a page; nil: nothing
}

func (s *Service) viewer(ctx context.Context, tx *storage.Tx, room *rooms.Room, to ident.Requester) (*viewer, error) {
	v := &viewer{svc: s, room: room, to: to, now: s.now(), member: room.MemberOf(to.UserID), policy: room.Retention()}
	v.joined = v.member != nil && v.member.Membership == rooms.Join
	var err error
	if v.ignored, err = s.accountData.Ignores(ctx, tx, to.UserNID); err != nil {
		return nil, err
	}
	if v.joined {
		v.joinedPos, err = s.rooms.JoinedSince(ctx, tx, to.UserNID, room.NID())
	}
	return v, err
}

// sight is the result of the visibility check of one event.
type sight struct {
	visible    bool
	membership visibility.Membership // the viewer's membership at the event, including the event's own change
}

// Visible returns the events that the requester may see, in the given order. It leaves out those that are hidden by
// history visibility, have expired, or were sent by an ignored user.
func (s *Service) Visible(ctx context.Context, tx *storage.Tx, room *rooms.Room, to ident.Requester, evs []*rooms.Event) (visible []*rooms.Event, err error) {
	err = s.withTx(ctx, tx, func(tx *storage.Tx) error {
		v, err := s.viewer(ctx, tx, room, to)
		if err != nil {
			return err
		}
		visible, _, err = v.filter(tx, evs)
		return err
	})
	return visible, err
}

// filter is like Visible, and also returns the sights of the visible events.
func (v *viewer) filter(tx *storage.Tx, evs []*rooms.Event) (visible []*rooms.Event, sights []sight, err error) {
	all, err := v.sights(tx, evs)
	if err != nil {
		return nil, nil, err
	}
	visible, sights = make([]*rooms.Event, 0, len(evs)), make([]sight, 0, len(evs))
	for i, e := range evs {
		if all[i].visible {
			visible, sights = append(visible, e), append(sights, all[i])
		}
	}
	return visible, sights, nil
}

// sights checks the visibility of events. Most checks need only memory: it has the viewer's membership since they
// joined, and the state before recent events.
func (v *viewer) sights(tx *storage.Tx, evs []*rooms.Event) ([]sight, error) {
	out := make([]sight, len(evs))
	var open []int
	for i, e := range evs {
		switch {
		case v.hides(e):
		case v.duringJoin(e):
			out[i] = sight{visible: true, membership: visibility.Join}
		default:
			open = append(open, i)
		}
	}
	if len(open) == 0 {
		return out, nil
	}
	pasts, err := v.pasts(tx, evs, open)
	if err != nil {
		return nil, err
	}
	for _, i := range open {
		if out[i], err = v.judge(tx, evs[i], pasts[evs[i].Snapshot]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// hides reports whether an event is hidden for a reason other than history visibility.
func (v *viewer) hides(e *rooms.Event) bool {
	// state from before this server joined consists of outliers
	if e.Hidden() && !(e.IsState() && e.Flags == storage.OutlierEvent) {
		return true
	}
	if e.IsState() {
		return false // state events do not expire, and those of ignored users are shown
	}
	_, ignored := v.ignored[e.Sender()]
	return ignored || v.expired(e)
}

func (v *viewer) expired(e *rooms.Event) bool {
	return !e.IsState() && expiry.Expired(v.policy, e.OriginServerTS(), e.ReceivedTS, v.now)
}

// cutoff returns the argument by which queries leave out expired events, or nil if nothing expires.
func (v *viewer) cutoff() *storage.Cutoff {
	if c, ok := expiry.CutoffOf(v.policy, v.now); ok {
		return (*storage.Cutoff)(&c)
	}
	return nil
}

// duringJoin reports whether the viewer was certainly joined at an event, without reading its state. A local event was
// built on everything that this server had received; a remote one may be from a server that had not received the join.
// joinedPos may lag behind joined for a moment after a commit: then it is 0.
func (v *viewer) duringJoin(e *rooms.Event) bool {
	return v.joined && v.joinedPos != 0 && e.Order >= ident.Order(v.joinedPos)*graph.OrderStep && v.svc.rooms.IsLocal(e.Sender())
}

// pasts returns the past of each of the events with the given indexes, by snapshot.
func (v *viewer) pasts(tx *storage.Tx, evs []*rooms.Event, at []int) (map[int64]past, error) {
	snapshots := make([]int64, len(at))
	for i, at := range at {
		snapshots[i] = evs[at].Snapshot
	}
	return v.pastsOf(tx, snapshots)
}

// pastsOf returns the past of each of the given snapshots. It reads the database only for those that are not in memory.
func (v *viewer) pastsOf(tx *storage.Tx, snapshots []int64) (map[int64]past, error) {
	found := make(map[int64]past, len(snapshots))
	var missing []int64
	for _, nid := range snapshots {
		if _, ok := found[nid]; ok {
			continue
		}
		p, ok := v.svc.past.Get(pastKey{nid, v.to.UserNID})
		if !ok {
			p = past{history: visibility.Shared, membership: visibility.Leave}
			if nid != 0 {
				// If there is no such state any more, the event was purged or authorised again since it was read.
				p.history, missing = visibility.Joined, append(missing, nid)
			}
		}
		found[nid] = p
	}
	if len(missing) == 0 {
		return found, nil
	}
	if tx == nil {
		return nil, errNeedTx
	}
	return found, v.loadPasts(tx, missing, found)
}

func (v *viewer) loadPasts(tx *storage.Tx, snapshots []int64, into map[int64]past) error {
	found, err := tx.VisibilityStates(snapshots, string(v.to.UserID))
	if err != nil {
		return err
	}
	var positions []storage.Pos
	for _, f := range found {
		positions = append(positions, f.HistoryVisibility, f.Member)
	}
	events, err := v.room.EventsAt(tx, positions)
	if err != nil {
		return err
	}
	for nid, f := range found {
		p := past{history: visibility.Shared, membership: visibility.Leave}
		if e := events[f.HistoryVisibility]; e != nil {
			p.history = visibility.ParseHistory(e.Content())
		}
		if e := events[f.Member]; e != nil {
			p.membership = membershipOf(e)
		}
		v.svc.past.Put(pastKey{nid, v.to.UserNID}, p)
		into[nid] = p
	}
	return nil
}

// judge checks whether the viewer may see event e, according to the rules in rooms/visibility.
func (v *viewer) judge(tx *storage.Tx, e *rooms.Event, before past) (sight, error) {
	view, err := v.view(tx, e.Order, before)
	if err != nil {
		return sight{}, err
	}
	at := before.membership
	switch {
	case e.IsStateKey(typeHistoryVisibility, ""):
		view.HistoryAfter = visibility.ParseHistory(e.Content())
	case e.IsStateKey(typeMember, string(v.to.UserID)):
		at = membershipOf(e)
		view.MembershipAfter = at
	}
	return sight{visible: visibility.CanSee(view) || v.joined && v.sticky(e), membership: at}, nil
}

// sticky reports whether an event is sticky now. Such an event is shown to everybody who is joined, whatever the
// history visibility was when it was sent.
// Spec: MSC4354
func (v *viewer) sticky(e *rooms.Event) bool { return e.StickyUntil() > v.now.UnixMilli() }

// view returns the input for visibility.CanSee for an event with the given order. The caller adds what the event itself
// changes.
func (v *viewer) view(tx *storage.Tx, order ident.Order, before past) (visibility.View, error) {
	view := visibility.View{History: before.history, Membership: before.membership, JoinedSince: v.joined}
	if v.joined {
		return view, nil
	}
	until, err := v.joinedUntil(tx)
	view.JoinedSince = order < until
	return view, err
}

func membershipOf(e *rooms.Event) visibility.Membership {
	if m := e.ContentString("membership"); m != "" {
		return visibility.Membership(m)
	}
	return visibility.Leave
}

// maxMembershipSteps bounds the walk back through a user's membership changes: a user with more changes since their
// last join sees less of the past.
const maxMembershipSteps = 200

// joinedUntil returns, for a user who is not joined, the order of the event that ended their last join; 0 if they never
// joined. It follows the replaced member events back from the current one.
func (v *viewer) joinedUntil(tx *storage.Tx) (ident.Order, error) {
	if v.lastJoin != nil || v.member == nil {
		return deref(v.lastJoin), nil
	}
	key := joinedKey{v.room.NID(), v.to.UserNID, v.member.Pos}
	until, ok := v.svc.joined.Get(key)
	if !ok {
		if tx == nil {
			return 0, errNeedTx
		}
		var err error
		if until, err = v.walkMembership(tx); err != nil {
			return 0, err
		}
		v.svc.joined.Put(key, until)
	}
	v.lastJoin = &until
	return until, nil
}

func deref(p *ident.Order) ident.Order {
	if p == nil {
		return 0
	}
	return *p
}

func (v *viewer) walkMembership(tx *storage.Tx) (ident.Order, error) {
	pos := v.member.Pos
	for range maxMembershipSteps {
		row, found, err := tx.EventAt(pos)
		if err != nil || !found || row.Snapshot == 0 {
			return 0, err
		}
		before, err := tx.StateKeyOf(row.Snapshot, typeMember, string(v.to.UserID))
		if err != nil || before == 0 {
			return 0, err
		}
		prior, found, err := tx.EventAt(before)
		if err != nil || !found {
			return 0, err
		}
		e, err := v.room.LoadEvent(&prior)
		if err != nil {
			return 0, err
		}
		if membershipOf(e) == visibility.Join {
			return row.Order, nil
		}
		pos = before
	}
	return 0, nil
}
