package web

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/redactions"
)

const day = 24 * time.Hour

// messagesView is what the page about old messages shows.
type messagesView struct {
	Days      int64 // after which messages are deleted; 0: they stay
	Max       int64 // the largest number of days that can be chosen
	Rooms     []roomLifetime
	Deleting  bool   // whether messages are being deleted now
	Deleted   int64  // how many have been deleted so far, or in the last time
	DeletedAt string // when that was finished; "" if it has not happened
}

// roomLifetime is the number of days that the user has chosen for a room.
type roomLifetime struct {
	Room id.RoomID
	Days int64
}

func (p *Pages) showMessages(r *httpapi.Request, s session, problem error) (any, error) {
	chosen, err := p.opts.Redactions.Lifetimes(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	_, most := redactions.LifetimeBounds()
	d := messagesView{Days: wholeDays(chosen.All), Max: wholeDays(most)}
	for _, room := range slices.Sorted(maps.Keys(chosen.Rooms)) {
		d.Rooms = append(d.Rooms, roomLifetime{room, wholeDays(chosen.Rooms[room])})
	}
	requests, err := p.opts.Redactions.OwnRequests(r.Context(), s.User)
	if err != nil {
		return nil, err
	}
	for _, q := range requests { // the newest first
		if q.Daily {
			d.Deleted, d.Deleting = q.Redacted+q.Removed, q.FinishedTS == 0
			if !d.Deleting {
				d.DeletedAt = when(time.UnixMilli(q.FinishedTS))
			}
			break
		}
	}
	return p.showProblem(r, "messages", s.cookie, p.ownView(r, s, "messages.title", d), problem, nil)
}

// wholeDays returns a time span in days, rounded up.
func wholeDays(d time.Duration) int64 { return int64((d + day - 1) / day) }

func (p *Pages) setLifetime(r *httpapi.Request, s session, f url.Values) (any, error) {
	days, err := strconv.ParseInt(strings.TrimSpace(f.Get("days")), 10, 32)
	if least, most := redactions.LifetimeBounds(); err != nil || days < wholeDays(least) || days > wholeDays(most) {
		return nil, mxerr.InvalidParam(english["messages.number"], wholeDays(least), wholeDays(most))
	}
	if err := p.opts.Redactions.SetLifetime(audit.WithNetwork(r.Context(), r.Network()), s.User, "", time.Duration(days)*day); err != nil {
		return nil, err
	}
	return done(pathMessages, "messages")
}

func (p *Pages) dropLifetime(r *httpapi.Request, s session, f url.Values) (any, error) {
	if _, err := p.opts.Redactions.DropLifetime(audit.WithNetwork(r.Context(), r.Network()), s.User, id.RoomID(f.Get("room"))); err != nil {
		return nil, err
	}
	return done(pathMessages, "messages-off")
}
