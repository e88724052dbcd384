package rooms

import (
	"context"

	"ebb/ident"
	"ebb/storage"
)

// recipients returns the servers to which an event is sent: the other servers in the room and, for a member event, the
// server of the user whom it is about. It is called right after the event was added to the room.
func (r *Room) recipients(e *Event) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	about := ""
	if key, isState := e.StateKey(); isState && e.Type() == typeMember {
		about = ident.ServerOf(key)
	}
	origin := ident.ServerOf(e.Sender())
	out := make([]string, 0, len(r.head.servers))
	for server := range r.head.servers {
		if server != r.svc.opts.Server && server != origin && server != about {
			out = append(out, server)
		}
	}
	invited := about != "" && r.head.servers[about] == 0 && e.ContentString("membership") == Invite // sent by /invite
	if about != "" && about != r.svc.opts.Server && about != origin && !invited {
		out = append(out, about)
	}
	return out
}

// EachJoined calls f for each room that the given user is joined to. The user may be local or remote.
func (s *Service) EachJoined(ctx context.Context, user ident.UserNID, f func(*Room)) error {
	var rows []storage.MemberRow
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.UserMemberships(user)
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range rows {
		if m.Membership != Join {
			continue
		}
		r, err := s.RoomByNID(ctx, m.Room)
		if err != nil {
			return err
		}
		f(r)
	}
	return nil
}
