package clientapi

import (
	"testing"

	"ebb/config"
	"ebb/httpapi"
)

// What changes something is limited, or one client could fill the disk or wake everybody for as long as it likes. Ending a
// session is not refused, and a look at keys changes nothing.
func TestEveryChangeHasARateLimit(t *testing.T) {
	free := map[string]bool{"logout": true, "logout_all": true, "queryKeys": true}
	for _, r := range New(API{Config: config.Default()}).Routes() {
		if r.Method != "GET" && r.Rate == httpapi.Unlimited && !free[r.OperationID] {
			t.Errorf("%s %s (%s) has no rate limit", r.Method, r.Path, r.OperationID)
		}
	}
}
