package feed

import (
	"context"
	"strconv"

	"ebb/canonjson"
	"ebb/history"
	"ebb/rooms"
)

// writeSliding appends a room.
func (b *slidingBuilder) writeSliding(ctx context.Context, r *roomWork, n *roomNews, x *slidingNews) error {
	b.key(string(r.room.ID()))
	b.out = append(b.out, '{')
	b.flag("initial", r.fresh)
	if b.run.Merged {
		b.key("membership")
		b.out = append(canonjson.AppendString(b.out, r.Membership), ',')
		if len(r.want.lists) > 0 {
			b.key("lists")
			b.out = append(appendStrings(b.out, r.want.lists), ',')
		}
	}
	if x.dm {
		b.key("is_dm")
		b.out = append(strconv.AppendBool(b.out, r.dm), ',')
	}
	if len(n.stripped) > 0 {
		b.writeSlidingStripped(n)
		b.number("bump_stamp", int64(r.Changed))
		b.endSection()
		return nil
	}
	if err := b.writeSlidingProfile(ctx, r, n, x); err != nil {
		return err
	}
	if err := b.writeRequired(ctx, n, x); err != nil {
		return err
	}
	if err := b.writeSlidingTimeline(ctx, r, n, x); err != nil {
		return err
	}
	b.endSection()
	return nil
}

// flag appends the given key with the value true if set is true, and nothing otherwise.
func (b *slidingBuilder) flag(name string, set bool) {
	if set {
		b.key(name)
		b.out = append(b.out, `true,`...)
	}
}

// number appends the given key with a number as its value.
func (b *slidingBuilder) number(name string, n int64) {
	b.key(name)
	b.out = append(strconv.AppendInt(b.out, n, 10), ',')
}

// writeSlidingStripped appends the stripped state of an invite or a knock, or of the end of one.
func (b *slidingBuilder) writeSlidingStripped(n *roomNews) {
	name := "invite_state"
	if b.run.Merged {
		name = "stripped_state"
	}
	b.key(name)
	b.out = append(b.out, '[')
	for _, e := range n.stripped {
		b.stripped(e)
	}
	b.out = append(b.out, `],`...)
}

// writeSlidingProfile appends name, avatar, heroes, counts and bump_stamp.
func (b *slidingBuilder) writeSlidingProfile(ctx context.Context, r *roomWork, n *roomNews, x *slidingNews) error {
	for _, m := range []struct {
		name, member string
		e            *rooms.Event
		deleted      bool
	}{{"name", "name", x.name, x.unnamed}, {"avatar", "url", x.avatar, x.faceless}} {
		switch {
		case m.e != nil:
			b.key(m.name)
			b.out = append(canonjson.AppendString(b.out, contentText(m.e, m.member)), ',')
		case m.deleted:
			b.key(m.name)
			b.out = append(b.out, `null,`...)
		}
	}
	if r.stage == stageLeft {
		b.number("bump_stamp", int64(r.Changed))
		return nil
	}
	if len(x.heroes) > 0 {
		b.writeHeroes(x.heroes)
	}
	if n.summary.changed {
		b.number("joined_count", int64(n.summary.joined))
		b.number("invited_count", int64(n.summary.invited))
	}
	if !b.run.Merged {
		main := n.unread.Main
		for _, c := range n.unread.Threads {
			main.Notify += c.Notify
			main.Highlight += c.Highlight
		}
		b.number("notification_count", main.Notify)
		b.number("highlight_count", main.Highlight)
	}
	stamp, err := b.bumpStamp(ctx, r)
	if err != nil {
		return err
	}
	b.number("bump_stamp", int64(stamp))
	return nil
}

// writeHeroes appends the heroes of a room, the members after whom clients name a room without a name.
func (b *slidingBuilder) writeHeroes(members []*rooms.Event) {
	b.key("heroes")
	b.out = append(b.out, '[')
	for _, e := range members {
		key, _ := e.StateKey()
		b.out = append(b.list(), `{"user_id":`...)
		b.out = canonjson.AppendString(b.out, key)
		for _, name := range [...]string{"displayname", "avatar_url"} {
			if text := contentText(e, name); text != "" {
				b.out = append(b.out, ',')
				b.key(name)
				b.out = canonjson.AppendString(b.out, text)
			}
		}
		b.out = append(b.out, '}')
	}
	b.out = append(b.out, `],`...)
}

// writeRequired appends the state that the client wants. In the merged form, an entry that was deleted is present with
// only its type and state key.
func (b *slidingBuilder) writeRequired(ctx context.Context, n *roomNews, x *slidingNews) error {
	stubs := x.stubs
	if !b.run.Merged {
		stubs = nil
	}
	if len(n.state)+len(stubs) == 0 {
		return nil
	}
	b.key("required_state")
	b.out = append(b.out, '[')
	if err := b.writeState(ctx, n.room, n.state); err != nil {
		return err
	}
	for _, key := range stubs {
		b.out = append(b.list(), `{"type":`...)
		b.out = canonjson.AppendString(b.out, key.Type)
		b.out = append(b.out, `,"state_key":`...)
		b.out = canonjson.AppendString(b.out, key.Key)
		b.out = append(b.out, '}')
	}
	b.out = append(b.out, `],`...)
	return nil
}

// writeSlidingTimeline appends the timeline. It appends nothing if the client wants no events of the room.
func (b *slidingBuilder) writeSlidingTimeline(ctx context.Context, r *roomWork, n *roomNews, x *slidingNews) error {
	if r.want.limit == 0 {
		return nil
	}
	b.key("timeline")
	b.out = append(b.out, '[')
	if err := b.writeEvents(ctx, n.room, &n.timeline); err != nil {
		return err
	}
	b.out = append(b.out, `],`...)
	name := "unstable_expanded_timeline"
	if b.run.Merged {
		name = "expanded_timeline"
	}
	b.flag(name, x.expanded)
	b.key("prev_batch")
	b.out = append(b.out, '"')
	b.out = append(b.out, history.TimelineToken(n.timeline.prev)...)
	b.out = append(b.out, `",`...)
	b.key("limited")
	b.out = append(strconv.AppendBool(b.out, n.timeline.limited), ',')
	b.number("num_live", int64(x.live))
	return nil
}
