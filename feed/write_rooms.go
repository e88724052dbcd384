package feed

import (
	"context"

	"ebb/canonjson"
)

// writeRooms appends the rooms by membership. Each room is gathered and written before the next, all in the same
// roomNews.
func (b *builder) writeRooms(ctx context.Context) error {
	mark := len(b.out)
	b.out = append(b.out, `"rooms":{`...)
	body := len(b.out)
	if err := writeSection(ctx, b, "join", b.plan.joined, b.gatherJoined, b.writeJoined); err != nil {
		return err
	}
	if err := writeSection(ctx, b, "invite", b.plan.invited, b.gatherStripped, b.writeInvited); err != nil {
		return err
	}
	if err := writeSection(ctx, b, "knock", b.plan.knocked, b.gatherStripped, b.writeKnocked); err != nil {
		return err
	}
	if err := writeSection(ctx, b, "leave", b.plan.left, b.gatherLeft, b.writeLeft); err != nil {
		return err
	}
	if len(b.out) == body {
		b.out = b.out[:mark]
		return nil
	}
	b.some = true
	b.endSection()
	return nil
}

// writeSection appends the rooms of one membership: gather fills b.news and reports whether the room is part of the
// answer, and write then appends its entry. Without entries it appends nothing.
func writeSection[T any](
	ctx context.Context, b *builder, name string, list []T,
	gather func(context.Context, *T, *roomNews) (bool, error), write func(context.Context, *roomNews) error,
) error {
	n, entries := b.news, 0
	for i := range list {
		some, err := gather(ctx, &list[i], n)
		if err != nil {
			return err
		}
		if !some {
			continue
		}
		if entries++; entries == 1 {
			b.key(name)
			b.out = append(b.out, '{')
		}
		b.key(string(n.room.ID()))
		b.out = append(b.out, '{')
		if err := write(ctx, n); err != nil {
			return err
		}
		b.endSection()
	}
	if entries > 0 {
		b.endSection()
	}
	return nil
}

// endSection closes the open object, which must not be empty, and appends a comma. The closing brace takes the place of
// the comma after the last value.
func (b *builder) endSection() {
	b.out[len(b.out)-1] = '}'
	b.out = append(b.out, ',')
}

// writeLeft appends the sections of a room that the user has left.
func (b *builder) writeLeft(ctx context.Context, n *roomNews) error {
	if err := b.writeStateSection(ctx, n); err != nil {
		return err
	}
	b.writeRoomData(n)
	return b.writeTimeline(ctx, n)
}

// writeInvited appends the section of a room that the user is invited to.
func (b *builder) writeInvited(_ context.Context, n *roomNews) error {
	b.writeStripped("invite_state", n)
	return nil
}

// writeKnocked appends the section of a room that the user knocks on.
func (b *builder) writeKnocked(_ context.Context, n *roomNews) error {
	b.writeStripped("knock_state", n)
	return nil
}

// writeStripped appends a section with the stripped state of a room.
func (b *builder) writeStripped(section string, n *roomNews) {
	b.key(section)
	b.out = append(b.out, `{"events":[`...)
	for _, e := range n.stripped {
		b.stripped(e)
	}
	b.out = append(b.out, `]},`...)
}

// stripped appends a state event in stripped form. The create event keeps its origin_server_ts too.
// Spec: client-server-api#stripped-state
func (b *builder) stripped(event []byte) {
	typ, _ := canonjson.Get(event, "type")
	members := strippedMembers
	if string(typ) != `"m.room.create"` {
		members = members[1:]
	}
	b.out = append(b.list(), '{')
	for _, name := range members {
		value, ok := canonjson.Get(event, name)
		if !ok {
			continue
		}
		if b.out[len(b.out)-1] != '{' {
			b.out = append(b.out, ',')
		}
		b.key(name)
		b.out = append(b.out, value...)
	}
	b.out = append(b.out, '}')
}

var strippedMembers = []string{"origin_server_ts", "content", "sender", "state_key", "type"}

// section calls fill to append events, and wraps them in an object. It appends nothing if fill appends no events.
func (b *builder) section(name string, fill func()) {
	mark := len(b.out)
	b.out = append(b.out, '"')
	b.out = append(b.out, name...)
	b.out = append(b.out, `":{"events":[`...)
	body := len(b.out)
	fill()
	if len(b.out) == body {
		b.out = b.out[:mark]
		return
	}
	b.some = true
	b.out = append(b.out, `]},`...)
}

// list returns b.out with a comma appended, unless the open list is still empty.
func (b *builder) list() []byte {
	if b.out[len(b.out)-1] == '[' {
		return b.out
	}
	return append(b.out, ',')
}

// key appends a key of a JSON object with its colon. The caller appends the value.
func (b *builder) key(name string) {
	b.out = canonjson.AppendString(b.out, name)
	b.out = append(b.out, ':')
}
