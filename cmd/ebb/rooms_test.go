package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// houses creates a server with a user, and with a room that has the alias #hall:test.
func houses(t *testing.T) (s site, room string) {
	t.Helper()
	s = newSite(t, 0)
	stop := s.serve(t)
	must(t, "some secret\n", "user", "add", "alice", "--password-stdin", "--config", s.config)
	alice, _ := s.login(t, "alice", "some secret")
	status, answer := alice.do("POST", "/createRoom", map[string]any{"name": "Hall", "room_alias_name": "hall", "preset": "public_chat", "visibility": "public"})
	room, _ = answer["room_id"].(string)
	if status != http.StatusOK || room == "" {
		t.Fatalf("createRoom: %d %v", status, answer)
	}
	if code := stop(); code != 0 {
		t.Fatalf("serve ended with %d", code)
	}
	return s, room
}

func TestRoomsAreShownAndTheirRetentionIsSet(t *testing.T) {
	s, room := houses(t)
	cfg := "--config=" + s.config
	check := func(t *testing.T) {
		list := parsed[[]roomShape](t, must(t, "", "room", "list", "--json", cfg))
		if len(list) != 1 || list[0].Room != room || list[0].Name != "Hall" || list[0].Alias != "#hall:test" || list[0].Version != "12" ||
			list[0].Joined != 1 || !list[0].Public || list[0].Encrypted || list[0].Override != nil || list[0].Retention.Max != nil {
			t.Errorf("the rooms are %+v", list)
		}
		if text := must(t, "", "room", "list", cfg); !strings.Contains(text, room) || !strings.Contains(text, "Hall") {
			t.Errorf("the rooms are printed as %q", text)
		}
		show := parsed[roomShape](t, must(t, "", "room", "show", "--json", "#hall:test", cfg))
		if show.Room != room || time.Since(show.Created) > patience {
			t.Errorf("room show by its alias: %+v", show)
		}
		if text := must(t, "", "room", "show", room, cfg); !strings.Contains(text, "messages for ever") {
			t.Errorf("room show: %q", text)
		}

		set := parsed[roomShape](t, must(t, "", "room", "retention", "set", "--max", "30d", "--min", "1d", "--json", room, cfg))
		if set.Override == nil || set.Retention.Max == nil || *set.Retention.Max != (30*24*time.Hour).Milliseconds() || *set.Retention.Min != (24*time.Hour).Milliseconds() {
			t.Errorf("room retention set: %+v", set)
		}
		if text := must(t, "", "room", "retention", "get", room, cfg); !strings.Contains(text, "keeps      messages for at most 30d, at least 1d\n") || !strings.Contains(text, "override") {
			t.Errorf("room retention get: %q", text)
		}
		refusedWith(t, 3, "", "", "room", "retention", "set", "--max", "1d", "--min", "30d", room, cfg)
		report := parsed[purgeShape](t, must(t, "", "purge", "now", "--json", cfg))
		if report.Rooms != 1 || report.Events != 0 || report.Took <= 0 {
			t.Errorf("purge now: %+v", report)
		}
		if text := must(t, "", "purge", "now", cfg); text != "removed 0 messages; rooms with a maximum lifetime: 1\n" {
			t.Errorf("purge now: %q", text)
		}
		// The administrator's policy may also remove all limits.
		if r := parsed[roomShape](t, must(t, "", "room", "retention", "set", "--json", room, cfg)); r.Override == nil || r.Override.Max != nil || r.Retention.Max != nil {
			t.Errorf("an override without bounds: %+v", r)
		}
		cleared := parsed[roomShape](t, must(t, "", "room", "retention", "clear", "--json", room, cfg))
		if cleared.Override != nil {
			t.Errorf("room retention clear: %+v", cleared)
		}
	}
	t.Run("stopped", check)
	stop := s.serve(t)
	t.Run("running", check)
	must(t, "", "healthcheck", cfg)
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
}

func TestPurgeWhileTheServerRunsEmptiesTheFiles(t *testing.T) {
	s, room := houses(t)
	stop := s.serve(t)
	alice, _ := s.login(t, "alice", "some secret")
	const marker = "a-word-that-goes-away"
	status, sent := alice.do("PUT", "/rooms/"+room+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": marker})
	if status != http.StatusOK {
		t.Fatalf("send: %d %v", status, sent)
	}
	if !contains(t, s.dir, marker) {
		t.Fatal("the message is in no file before it is purged")
	}
	if text := must(t, "", "room", "retention", "set", "--max", "1ms", "--dry-run", room, "--config", s.config); !strings.Contains(text, "would go   1 messages") {
		t.Errorf("room retention set --dry-run: %q", text)
	}
	must(t, "", "room", "retention", "set", "--max", "1ms", room, "--config", s.config)
	if report := parsed[purgeShape](t, must(t, "", "purge", "now", "--json", "--config", s.config)); report.Events != 0 || report.Waiting != 1 {
		t.Errorf("purge now, while the policy has not stood for a day: %+v", report)
	}
	if text := must(t, "", "purge", "status", "--config", s.config); !strings.Contains(text, "the last purge began") || !strings.Contains(text, "1 messages are hidden but stay on disk") {
		t.Errorf("purge status: %q", text)
	}
	if report := parsed[purgeShape](t, must(t, "", "purge", "now", "--all", "--json", "--config", s.config)); report.Events < 1 {
		t.Errorf("purge now: %+v", report)
	}
	if contains(t, s.dir, marker) {
		t.Error("the message is on disk after it was purged")
	}
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
}

// contains reports whether any file below dir contains text.
func contains(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		found = found || strings.Contains(string(raw), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
