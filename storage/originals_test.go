package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
)

// A redaction can keep what every row of the event held, and its media, until the original is deleted.
func TestARedactionKeepsTheOriginal(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		const before = `{"url":"mxc://other.org/pic"}`
		ok(t, tx.InsertEvent(event(1, func(e *storage.EventRow) { e.JSON = []byte(before) })))
		media := storage.MediaName{Server: "other.org", ID: "pic"}
		ok(t, tx.RedactKeepingOriginal(&storage.Original{Position: 1, Room: 1, RedactedTS: 50, Readable: true}, "$1", []byte(`{}`), 9))
		row, _, err := tx.EventAt(1)
		ok(t, err)
		referenced, err := tx.MediaReferenced(media)
		ok(t, err)
		if string(row.JSON) != `{}` || !referenced {
			t.Errorf("after the redaction the event is %s; its media are referenced: %v", row.JSON, referenced)
		}
		o, found, err := tx.OriginalOf(1)
		if ok(t, err); !found || string(o.JSON) != before || o.RedactedTS != 50 || !o.Readable || o.Sender != event(1).Sender {
			t.Errorf("the original is %+v, %v", o, found)
		}
		ok(t, tx.DeleteOriginal(1))
		if referenced, err = tx.MediaReferenced(media); err != nil || referenced {
			t.Errorf("after the original was deleted, its media are referenced: %v, %v", referenced, err)
		}
		if n, err := tx.CountOriginals(); err != nil || n != 0 {
			t.Errorf("%d originals are left, %v", n, err)
		}
		return nil
	})
}

func TestWhichOriginalsAreDue(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		erased, err := tx.UserNID("@erased:x")
		ok(t, err)
		other := erased + 1
		ok(t, tx.EraseUser(erased, tx.NextPos()))
		add := func(p storage.Pos, room ident.RoomNID, sender ident.UserNID, ts int64, readable bool) {
			ok(t, tx.AddOriginal(&storage.Original{Position: p, Room: room, Sender: sender, RedactedTS: ts, Readable: readable, JSON: []byte(`{}`)}))
		}
		ok(t, tx.InsertEvent(event(1, func(e *storage.EventRow) { e.ReceivedTS = 7 })))
		ok(t, tx.InsertEvent(event(2, func(e *storage.EventRow) { e.IsState = true })))
		add(1, 1, other, 100, true)
		add(2, 1, other, 101, false)
		add(3, 1, other, 101, true)
		add(4, 2, erased, 101, true)
		add(5, 2, other, 50, true)
		list, err := tx.DueOriginals(storage.OriginalCursor{}, 100, 2)
		ok(t, err)
		if len(list) != 2 || list[0].Position != 1 || list[0].ReceivedTS != 7 || list[0].IsState || list[1].Position != 2 || !list[1].IsState {
			t.Errorf("the first page is %+v", list)
		}
		for past, want := range map[bool][]storage.Pos{false: {2, 4, 5}, true: {4, 5}} {
			rest, err := tx.DueOriginals(list[0].After(past), 100, 10)
			ok(t, err)
			var got []storage.Pos
			for _, o := range rest {
				got = append(got, o.Position)
			}
			if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
				t.Errorf("after the first one, past all of its sender %v: %v, want %v", past, got, want)
			}
		}
		return nil
	})
}
