package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// maxAuthServers bounds the servers that are asked for the auth events of one event, including the origin.
const maxAuthServers = 4

// gatherAuthEvents requests the auth chains of the waiting events whose auth events are missing. Events whose auth
// events cannot be fetched become undecided.
func (g *gathering) gatherAuthEvents(ctx context.Context) error {
	if g.from.remote == nil {
		return nil
	}
	g.markFollowed()
	for {
		e := g.lackingAuth()
		if e == nil {
			return nil
		}
		if err := g.gatherAuthEventsOf(ctx, e); err != nil {
			return err
		}
		if len(g.missingAuth(e)) > 0 {
			g.leaveUndecided(e)
		}
	}
}

// leaveUndecided marks an event as undecided because an auth event cannot be fetched. If no valid event follows it, the
// event is dropped instead.
func (g *gathering) leaveUndecided(e *incoming) {
	if e.noAuth = true; !e.followed {
		g.finish(e.ID(), errNoAuthEvent)
		received.WithLabelValues("undecided").Inc()
	}
}

// gatherAuthEventsOf requests the auth chain of an event from several servers, beginning with the origin. Auth events
// that are still missing then are requested one by one.
func (g *gathering) gatherAuthEventsOf(ctx context.Context, e *incoming) error {
	for _, auth := range g.missingAuth(e) {
		if elsewhere, err := g.isElsewhere(ctx, auth); elsewhere || err != nil {
			return err
		}
	}
	for _, server := range g.serversFor(e.Sender()) {
		missing := slices.DeleteFunc(g.missingAuth(e), func(auth id.EventID) bool { return g.unavailable[auth] })
		if len(missing) == 0 || g.authRequests >= maxAuthFetches {
			break
		}
		g.authRequests++
		chain, err := g.from.remote.EventAuth(ctx, server, g.room.id, e.ID())
		if err != nil {
			g.svc.log.DebugContext(ctx, "could not fetch an auth chain", "room", g.room.id, "event", e.ID(), "server", server, "err", err)
		}
		if err := g.storeCited(ctx, chain); err != nil {
			return err
		}
		if err := g.storeCited(ctx, g.from.fetchEach(ctx, server, g.missingAuth(e))); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for _, auth := range g.missingAuth(e) {
		g.unavailable[auth] = true
	}
	return nil
}

// serversFor returns the servers to ask about an event of the given sender: the origin, the sender's server, and other
// servers in the room.
func (g *gathering) serversFor(sender id.UserID) []string {
	if g.from.remote == nil {
		return nil
	}
	servers := slices.DeleteFunc(g.room.backfillServers(sender), func(server string) bool { return server == g.origin })
	if g.origin != "" {
		servers = append([]string{g.origin}, servers...)
	}
	return servers[:min(len(servers), maxAuthServers)]
}

// storeCited stores events that were requested because another event cites them.
func (g *gathering) storeCited(ctx context.Context, raws []json.RawMessage) error {
	g.noteElsewhere(ctx, raws)
	return g.from.storeOutliers(ctx, raws)
}

// isElsewhere reports whether a cited event is known to belong to another room.
func (g *gathering) isElsewhere(ctx context.Context, eventID id.EventID) (found bool, err error) {
	if g.elsewhere[eventID] {
		return true, nil
	}
	err = g.svc.db.Read(ctx, func(tx *storage.Tx) error {
		row, stored, err := tx.EventAnywhere(string(eventID))
		found = stored && row.Room != g.room.nid
		return err
	})
	if found {
		g.elsewhere[eventID] = true
	}
	return found, err
}

// noteElsewhere records which events of a response belong to another room. In room versions in which servers choose the
// event IDs, this counts only if the event has a valid signature.
func (g *gathering) noteElsewhere(ctx context.Context, raws []json.RawMessage) {
	v := g.room.version
	for _, raw := range raws {
		if room, ok := canonjson.Get(raw, "room_id"); !ok || canonjson.String(room) == string(g.room.id) {
			continue
		}
		e, err := pdu.Parse(v, raw)
		if err != nil || e.RoomID() == g.room.id {
			continue
		}
		if v.EventIDFormat == pdu.EventIDFromServer {
			if events, _ := g.svc.verifier.Verify(ctx, v, []json.RawMessage{raw}); events[0] == nil {
				continue
			}
		}
		g.elsewhere[e.ID()] = true
	}
}
