package feed

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"ebb/storage"
)

func TestReceiptsOfSeveralThreadsAtOneEventAreAllTold(t *testing.T) {
	receipts := []storage.SyncReceipt{
		{Position: 9, User: "@a:x", Type: "m.read", Thread: "$root", EventID: "$2", TS: 9},
		{Position: 8, User: "@a:x", Type: "m.read", EventID: "$2", TS: 8},
		{Position: 7, User: "@b:x", Type: "m.read", EventID: "$2", TS: 7},
		{Position: 6, User: "@a:x", Type: "m.read.private", Thread: "main", EventID: "$2", TS: 6},
		{Position: 5, User: "@a:x", Type: "m.read", Thread: "main", EventID: "$2", TS: 5},
		{Position: 4, User: "@a:x", Type: "m.read", Thread: "$other", EventID: "$1", TS: 4},
		{Position: 3, User: `@"c":x`, Type: "m.read", EventID: "$1", TS: 3},
	}
	var want []string
	for _, r := range receipts {
		want = append(want, fmt.Sprint(r.EventID, r.Type, r.User, r.Thread, r.TS))
	}
	var events []struct {
		Type    string `json:"type"`
		Content map[string]map[string]map[string]struct {
			TS     int64  `json:"ts"`
			Thread string `json:"thread_id"`
		} `json:"content"`
	}
	raw := append(appendReceipts([]byte{'['}, receipts), ']')
	if err := json.Unmarshal(raw, &events); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	var got []string
	for _, e := range events {
		if e.Type != "m.receipt" {
			t.Errorf("type %s", e.Type)
		}
		for event, types := range e.Content {
			for typ, users := range types {
				for user, r := range users {
					got = append(got, fmt.Sprint(event, typ, user, r.Thread, r.TS))
				}
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(events) != 3 {
		t.Errorf("%d events: %v\nwant %v", len(events), got, want)
	}
}

func TestMemberEventsAreKnownOnlyToWhoConfirmedThem(t *testing.T) {
	m := newSessions(nil)
	s := &session{}
	key := func(chain uint32, member int) memberKey {
		return memberKey{chain: chain, filter: 1, room: 1, member: "@u:x", event: storage.Pos(member)}
	}
	if s.wasSent(m.seed, key(1, 1), 100) {
		t.Error("known before anything was given")
	}
	for i := range 3 * maxSentMembers {
		s.noteSent(m.seed, []memberKey{key(1, i)}, storage.Pos(10+i))
	}
	last := 3*maxSentMembers - 1
	at := storage.Pos(10 + last)
	if !s.wasSent(m.seed, key(1, last), at) {
		t.Error("what was given last is not known")
	}
	if s.wasSent(m.seed, key(1, last), at-1) || s.wasSent(m.seed, key(2, last), at) {
		t.Error("known to an older token, or to another chain")
	}
	if len(s.sent) != maxSentMembers {
		t.Errorf("%d places for sent members", len(s.sent))
	}
}
