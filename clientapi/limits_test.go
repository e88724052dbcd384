package clientapi

import (
	"testing"

	"ebb/config"
	"ebb/httpapi"
)

// Every operation that changes something needs a rate limit; otherwise one client could fill the disk or wake other
// clients as often as it likes. There are three exceptions: ending a session is never refused, querying keys changes
// nothing, and in sliding sync only the first request is limited, as a read (limitFirst).
func TestEveryChangeHasARateLimit(t *testing.T) {
	free := map[string]bool{"logout": true, "logout_all": true, "queryKeys": true, "slidingSync": true, "slidingSyncUnstable": true}
	for _, r := range New(API{Config: config.Default()}).Routes() {
		if r.Method != "GET" && r.Rate == httpapi.Unlimited && !free[r.OperationID] {
			t.Errorf("%s %s (%s) has no rate limit", r.Method, r.Path, r.OperationID)
		}
	}
}

// What one user reads must not occupy all reading connections of the database, which holds only for requests in the
// class Reads. A complete key backup, for example, takes many reads.
func TestOperationsThatOnlyReadAreInTheClassOfReads(t *testing.T) {
	reads := map[string]bool{"searchUserDirectory": true, "search": true, "queryKeys": true, "queryPublicRooms": true, "postDehydratedDeviceEvents": true}
	for _, r := range New(API{Config: config.Default()}).Routes() {
		if r.Method == "GET" && r.Rate == httpapi.Sends || reads[r.OperationID] && r.Rate != httpapi.Reads {
			t.Errorf("%s %s (%s) counts as a change", r.Method, r.Path, r.OperationID)
		}
	}
}
