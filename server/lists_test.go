package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"ebb/adminapi"
	"ebb/internal/testserver"
)

func TestRoomListTakesThreeStatementsForAPageAndLoadsNoRoom(t *testing.T) {
	net := testserver.Federation(t, 1, nil)
	alice := net.Servers[0].Register("alice")
	const rooms = 120 // more than one page
	missing := map[string]string{}
	for i := range rooms {
		name := fmt.Sprint("Room ", i)
		missing[alice.Do("POST", "/v3/createRoom", map[string]any{"name": name})["room_id"].(string)] = name
	}
	net.Stop(0)
	net.Start(0)
	pages := 0
	statements := net.Servers[0].Statements(func() {
		for args := (adminapi.ListArgs{}); ; {
			page := roomPage(t, net.Servers[0], args)
			pages++
			for _, r := range page.Items {
				if missing[string(r.Room)] != r.Name || r.Joined != 1 {
					t.Errorf("the list has the room %+v, want its name and one member", r)
				}
				delete(missing, string(r.Room))
			}
			if args.After = page.Next; args.After == "" {
				return
			}
		}
	})
	if pages != 2 || len(missing) != 0 {
		t.Errorf("%d pages, want 2; the rooms %v are on none of them", pages, missing)
	}
	reads := 0
	for _, q := range statements {
		if strings.Contains(q, "m.room.canonical_alias") || strings.Contains(q, "COUNT(*) FROM memberships") || strings.Contains(q, "FROM rooms WHERE nid >") {
			reads++ // background jobs run other statements meanwhile
		}
		if strings.Contains(q, "state_snapshots") || strings.Contains(q, "ORDER BY ord DESC") {
			t.Errorf("a room was loaded: %s", q)
		}
	}
	if reads != 3*pages {
		t.Errorf("%d statements for %d pages, want three for each", reads, pages)
	}
}

func roomPage(t *testing.T, s *testserver.Server, args adminapi.ListArgs) adminapi.Page[adminapi.Room] {
	t.Helper()
	raw, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Control(t.Context(), "room list", raw)
	if err != nil {
		t.Fatal(err)
	}
	return answer.(adminapi.Page[adminapi.Room])
}
