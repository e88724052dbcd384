package main

import (
	"fmt"
	"strings"
	"testing"

	"ebb/internal/mailsink"
)

func TestEmailTestSendsAMessageOrReportsTheError(t *testing.T) {
	sink := mailsink.New(t, mailsink.Options{Password: "right"})
	s := newSite(t, 0)
	cfg := "--config=" + s.config
	refusedWith(t, 3, "", "email.smtp.host is not set", "email", "test", "alice@example.org", cfg)

	write(t, s.dir+"/smtp.password", "right\n")
	edit(t, s.config, "host: \"\"\n    port: 587\n", fmt.Sprintf("host: %s\n    port: %d\n", sink.Host, sink.Port))
	edit(t, s.config, "tls: starttls", "tls: none")
	edit(t, s.config, `    username: ""`, "    username: ebb")
	edit(t, s.config, `password_file: ""`, "password_file: smtp.password")
	edit(t, s.config, `from: ""`, "from: Test server <ebb@example.org>")
	for _, way := range []string{"stopped", "running"} {
		t.Run(way, func(t *testing.T) {
			if way == "running" {
				s.serve(t)
			}
			must(t, "", "email", "test", "alice@example.org", cfg)
			m := sink.Next()
			if m.To != "alice@example.org" || m.From != "ebb@example.org" || m.Authenticated != "ebb" || !strings.Contains(m.Subject, "test") {
				t.Errorf("the message is %+v", m)
			}
			refusedWith(t, 3, "", "is not an e-mail address", "email", "test", "alice", cfg)
		})
	}
	write(t, s.dir+"/smtp.password", "wrong\n")
	refusedWith(t, 3, "", "could not be sent", "email", "test", "alice@example.org", "--config="+s.config)
}
