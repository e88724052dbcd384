package feed

import (
	"context"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/history"
)

// writeJoined appends the sections of a joined room.
func (b *builder) writeJoined(ctx context.Context, n *roomNews) error {
	b.writeSummary(&n.summary)
	if err := b.writeStateSection(ctx, n); err != nil {
		return err
	}
	b.writeEphemeral(n)
	b.writeRoomData(n)
	if err := b.writeTimeline(ctx, n); err != nil {
		return err
	}
	if err := b.writeSticky(ctx, n); err != nil {
		return err
	}
	b.writeUnread(&n.unread)
	return nil
}

// writeSummary appends the summary of a room, which is empty if nothing in it changed.
func (b *builder) writeSummary(s *summary) {
	b.out = append(b.out, `"summary":{`...)
	if s.changed {
		if s.heroes != nil {
			b.out = append(b.out, `"m.heroes":`...)
			b.out = appendStrings(b.out, s.heroes)
			b.out = append(b.out, ',')
		}
		b.out = append(b.out, `"m.invited_member_count":`...)
		b.out = strconv.AppendInt(b.out, int64(s.invited), 10)
		b.out = append(b.out, `,"m.joined_member_count":`...)
		b.out = strconv.AppendInt(b.out, int64(s.joined), 10)
	}
	b.out = append(b.out, `},`...)
}

// writeEphemeral appends receipts and typing.
func (b *builder) writeEphemeral(n *roomNews) {
	b.out = append(b.out, `"ephemeral":{"events":[`...)
	if len(n.receipts) > 0 {
		b.out = appendReceipts(b.out, uniqueReceipts(n.receipts))
	}
	if n.typingChanged {
		b.out = appendTyping(b.list(), n.typing)
	}
	b.out = append(b.out, `]},`...)
}

// writeRoomData appends the user's account data of a room.
func (b *builder) writeRoomData(n *roomNews) {
	b.out = append(b.out, `"account_data":{"events":[`...)
	for _, d := range n.data {
		b.out = appendDatum(b.list(), d)
	}
	b.out = append(b.out, `]},`...)
}

// writeUnread appends the unread counts. Without unread_thread_notifications the counts of the room include those of
// its threads.
func (b *builder) writeUnread(u *history.Unread) {
	main := u.Main
	byThread := b.filter.Room.Timeline.UnreadThreadNotifications
	if !byThread {
		for _, c := range u.Threads {
			main.Notify += c.Notify
			main.Highlight += c.Highlight
		}
	}
	b.out = append(b.out, `"unread_notifications":`...)
	b.out = appendCount(b.out, main)
	b.out = append(b.out, ',')
	if byThread {
		b.writeThreads(u.Threads)
	}
}

// writeThreads appends the counts of the threads with unread events, and nothing if there are none.
func (b *builder) writeThreads(threads map[id.EventID]history.UnreadCount) {
	separator := `"unread_thread_notifications":{`
	if b.filter.Room.Timeline.UnstableThreads {
		separator = `"org.matrix.msc3773.unread_thread_notifications":{`
	}
	for root, c := range threads {
		if c == (history.UnreadCount{}) {
			continue
		}
		b.out = append(b.out, separator...)
		separator = ","
		b.key(string(root))
		b.out = appendCount(b.out, c)
	}
	if separator == "," {
		b.out = append(b.out, `},`...)
	}
}

func appendCount(dst []byte, c history.UnreadCount) []byte {
	dst = append(dst, `{"highlight_count":`...)
	dst = strconv.AppendInt(dst, c.Highlight, 10)
	dst = append(dst, `,"notification_count":`...)
	dst = strconv.AppendInt(dst, c.Notify, 10)
	return append(dst, '}')
}
