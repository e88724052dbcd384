package feed

import (
	"context"
	"slices"
	"strconv"

	"ebb/canonjson"
	"ebb/rooms"
	"ebb/storage"
)

// maxReceipts bounds the receipts of one room in one answer. A first sync of a large room gets the newest ones, and
// always the user's own.
const maxReceipts = 1000

// withoutGoneReceipts removes the receipts at messages that have expired, and those in threads that began with one. It
// reuses receipts.
func (b *builder) withoutGoneReceipts(ctx context.Context, room *rooms.Room, receipts []storage.SyncReceipt) ([]storage.SyncReceipt, error) {
	if len(receipts) == 0 || room.Retention().Max == nil && room.PurgedBefore() == 0 {
		return receipts, nil
	}
	refs := make([]storage.EventRef, 0, len(receipts))
	for _, r := range receipts {
		refs = append(refs, storage.EventRef{Room: room.NID(), EventID: r.EventID})
		if inThread(r.Thread) {
			refs = append(refs, storage.EventRef{Room: room.NID(), EventID: r.Thread})
		}
	}
	var gone map[storage.EventRef]bool
	err := b.read(ctx, func(tx *storage.Tx) (err error) {
		gone, err = b.opts.Rooms.GoneEvents(ctx, tx, refs)
		return err
	})
	return slices.DeleteFunc(receipts, func(r storage.SyncReceipt) bool {
		return gone[storage.EventRef{Room: room.NID(), EventID: r.EventID}] || inThread(r.Thread) && gone[storage.EventRef{Room: room.NID(), EventID: r.Thread}]
	}), err
}

// inThread reports whether the thread of a receipt is the event ID of a root.
func inThread(thread string) bool { return thread != "" && thread != "main" }

// appendReceipts appends m.receipt events, comma separated. An event has room for one receipt of a user for each event
// and type: a user's receipts for several threads at the same event go into separate m.receipt events.
func appendReceipts(dst []byte, receipts []storage.SyncReceipt) []byte {
	slices.SortStableFunc(receipts, byEventTypeUser)
	first := true
	for len(receipts) > 0 {
		var now, later []storage.SyncReceipt
		for i, r := range receipts {
			if i > 0 && byEventTypeUser(receipts[i-1], r) == 0 {
				later = append(later, r)
			} else {
				now = append(now, r)
			}
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendReceiptEvent(dst, now)
		receipts = later
	}
	return dst
}

// uniqueReceipts removes duplicates.
func uniqueReceipts(receipts []storage.SyncReceipt) []storage.SyncReceipt {
	seen := make(map[storage.Pos]bool, len(receipts))
	return slices.DeleteFunc(receipts, func(r storage.SyncReceipt) bool {
		twice := seen[r.Position]
		seen[r.Position] = true
		return twice
	})
}

func byEventTypeUser(a, b storage.SyncReceipt) int {
	for _, pair := range [][2]string{{a.EventID, b.EventID}, {a.Type, b.Type}, {a.User, b.User}} {
		if pair[0] != pair[1] {
			if pair[0] < pair[1] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// appendReceiptEvent appends one m.receipt event. The receipts are sorted, and no two have the same event, type and
// user.
// Spec: client-server-api#mreceipt
func appendReceiptEvent(dst []byte, receipts []storage.SyncReceipt) []byte {
	dst = append(dst, `{"content":{`...)
	for i, r := range receipts {
		newEvent := i == 0 || receipts[i-1].EventID != r.EventID
		newType := newEvent || receipts[i-1].Type != r.Type
		switch {
		case i == 0:
		case newEvent:
			dst = append(dst, `}},`...)
		case newType:
			dst = append(dst, `},`...)
		default:
			dst = append(dst, ',')
		}
		if newEvent {
			dst = canonjson.AppendString(dst, r.EventID)
			dst = append(dst, `:{`...)
		}
		if newType {
			dst = canonjson.AppendString(dst, r.Type)
			dst = append(dst, `:{`...)
		}
		dst = canonjson.AppendString(dst, r.User)
		dst = append(dst, `:{`...)
		if r.Thread != "" {
			dst = append(dst, `"thread_id":`...)
			dst = canonjson.AppendString(dst, r.Thread)
			dst = append(dst, ',')
		}
		dst = append(dst, `"ts":`...)
		dst = strconv.AppendInt(dst, r.TS, 10)
		dst = append(dst, '}')
	}
	if len(receipts) > 0 {
		dst = append(dst, `}}`...)
	}
	return append(dst, `},"type":"m.receipt"}`...)
}
