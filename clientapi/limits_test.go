package clientapi

import (
	"testing"

	"ebb/config"
	"ebb/httpapi"
)

// Every operation that changes something has a rate limit; otherwise one client could fill the disk or wake everybody
// as often as it likes. Exceptions: ending a session is never refused, querying keys changes nothing, and of sliding
// sync the first request counts as a read (limitFirst).
func TestEveryChangeHasARateLimit(t *testing.T) {
	free := map[string]bool{"logout": true, "logout_all": true, "queryKeys": true, "slidingSync": true, "slidingSyncUnstable": true}
	for _, r := range New(API{Config: config.Default()}).Routes() {
		if r.Method != "GET" && r.Rate == httpapi.Unlimited && !free[r.OperationID] {
			t.Errorf("%s %s (%s) has no rate limit", r.Method, r.Path, r.OperationID)
		}
	}
}
