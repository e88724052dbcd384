package main

import (
	"strings"
	"testing"
	"time"
)

func TestProgressIsShownWhilePackagesRun(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	p := newProgress(&out, func() time.Time { return now })
	send := func(lines string) {
		for line := range strings.Lines(lines) {
			p.take(parse([]byte(line)))
		}
	}
	p.running() // the tests are still being built
	send(`{"Action":"start","Package":"ebb/rooms"}
{"Action":"run","Package":"ebb/rooms","Test":"TestLong"}
{"Action":"output","Package":"ebb/rooms","Test":"TestLong","Output":"noise\n"}
{"Action":"run","Package":"ebb/config","Test":"TestSmall"}
{"Action":"output","Package":"ebb/config","Test":"TestSmall","Output":"    a_test.go:1: SKIP root: only root can try\n"}
{"Action":"skip","Package":"ebb/config","Test":"TestSmall"}
{"Action":"output","Package":"ebb/config","Output":"ok  \tebb/config\t(cached)\n"}
{"Action":"pass","Package":"ebb/config","Elapsed":0.1}
{"Action":"run","Package":"ebb/feed","Test":"TestBad"}
{"Action":"output","Package":"ebb/feed","Test":"TestBad","Output":"    b_test.go:7: it is wrong\n"}
{"Action":"fail","Package":"ebb/feed","Test":"TestBad"}
{"Action":"fail","Package":"ebb/feed","Elapsed":2}
`)
	now = now.Add(90 * time.Second)
	p.running()
	send(`{"Action":"output","Package":"ebb/rooms","Test":"TestLong","Output":"panic: too long\n"}
{"Action":"fail","Package":"ebb/rooms","Elapsed":91}`)
	p.summary()
	for _, want := range []string{
		"...  0s: building", "ok   ebb/config                       cached     1 packages done", "b_test.go:7: it is wrong\n", "FAIL ebb/feed",
		"...  1m30s: ebb/rooms.TestLong (1m30s)", "panic: too long", "FAIL ebb/rooms", "skipped 1: root: only root can try", "FAIL after 1m30s: ebb/feed, ebb/rooms",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	if before, _, _ := strings.Cut(out.String(), "panic"); strings.Contains(before, "noise\n...") {
		t.Error("the output of a test that still runs is shown")
	}
}
