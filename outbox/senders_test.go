package outbox

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestMessagesOfOneUserDisplaceOnlyTheirOwn(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		s := New(Options{DB: db, Server: "here"})
		write := func(f func(tx *storage.Tx) error) {
			t.Helper()
			if err := db.Write(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		waiting := func(user id.UserID) (rows []storage.SentEDU, cost int64) {
			t.Helper()
			err := db.Read(t.Context(), func(tx *storage.Tx) (err error) {
				rows, err = tx.EDUsOfSender(tx.IDHash(string(user)))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				cost += r.Size + eduCost
			}
			return rows, cost
		}
		write(func(tx *storage.Tx) error {
			return s.AddEDU(tx, "dead", "@alice:here", json.RawMessage(`"the key of a room"`))
		})
		for range 25 {
			write(func(tx *storage.Tx) error {
				for range maxDurable / 20 {
					if err := s.AddEDU(tx, "dead", "@mallory:here", json.RawMessage(`"x"`)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if rows, _ := waiting("@alice:here"); len(rows) != 1 {
			t.Error("the message of somebody else is gone")
		}
		if rows, _ := waiting("@mallory:here"); len(rows) < maxSenderEDUs || len(rows) > maxSenderEDUs+measureEvery/eduCost {
			t.Errorf("%d messages for one server wait", len(rows))
		}
		large := json.RawMessage(`"` + strings.Repeat("x", 60_000) + `"`)
		for i := range 13 {
			write(func(tx *storage.Tx) error {
				for k := range 100 {
					if err := s.AddEDU(tx, fmt.Sprintf("dead%d", 100*i+k), "@mallory:here", large); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if _, cost := waiting("@mallory:here"); cost > maxSenderBytes+2*measureEvery || cost < maxSenderBytes*9/10 {
			t.Errorf("%d bytes for all servers wait", cost)
		}
	})
}
