package adminapi

import (
	"context"
	"strconv"
	"time"

	"ebb/ident"
	"ebb/storage"
)

// ReceiptArgs are the arguments of the command "receipts list".
type ReceiptArgs struct {
	ListArgs
	Room string `json:"room,omitempty"` // ID or alias; "": all rooms
}

// Receipt is a signed receipt of deletions.
type Receipt struct {
	Number int64     `json:"number"`
	Time   time.Time `json:"time"`
	Digest string    `json:"digest"`
	Note   string    `json:"note"` // the text and its signature
}

// receiptsList lists the receipts of what was purged, the oldest first.
func (a *API) receiptsList(ctx context.Context, args ReceiptArgs) (any, error) {
	after, err := numberAfter(args.ListArgs)
	if err != nil {
		return nil, err
	}
	var nid ident.RoomNID
	if args.Room != "" {
		id, err := a.roomID(ctx, args.Room)
		if err != nil {
			return nil, err
		}
		room, err := a.Rooms.Room(ctx, id)
		if err != nil {
			return nil, err
		}
		nid = room.NID()
	}
	read := func(limit int) (list []storage.DeletionReceipt, err error) {
		err = a.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			list, err = tx.DeletionReceipts(after, nid, limit)
			return err
		})
		return list, err
	}
	key := func(d storage.DeletionReceipt) string { return strconv.FormatInt(d.Number, 10) }
	return pageOf(args.ListArgs, read, key, func(d storage.DeletionReceipt) Receipt {
		return Receipt{Number: d.Number, Time: time.UnixMilli(d.TS), Digest: d.Digest, Note: d.Note}
	})
}

// ReceiptKey is the public part of a key that signs receipts.
type ReceiptKey struct {
	Key     string `json:"key"`
	Current bool   `json:"current"`
}

// receiptsKeys lists the public parts of the newest keys that have signed receipts, the newest first.
func (a *API) receiptsKeys(ctx context.Context, _ ListArgs) (any, error) {
	page := Page[ReceiptKey]{Items: []ReceiptKey{}}
	err := a.DB.Read(ctx, func(tx *storage.Tx) error {
		keys, err := tx.DeletionKeys(maxListPage)
		for _, k := range keys {
			page.Items = append(page.Items, ReceiptKey{k.Verifier, k.Private != ""})
		}
		return err
	})
	return page, err
}
