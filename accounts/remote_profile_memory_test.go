package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/internal/heaptest"
)

func TestProfilesOfRemoteUsersInMemoryAreBoundedInBytes(t *testing.T) {
	for name, value := range map[string]string{"tiny": `1`, "large": `"` + strings.Repeat("x", 60_000) + `"`} {
		t.Run(name, func(t *testing.T) {
			const bound = 1 << 20
			memo := newProfileMemo(bound, time.Now)
			heaptest.Bounded(t, bound, 20_000_000/(1000+len(value)), func(i int) {
				_, err := memo.Get(t.Context(), id.UserID(fmt.Sprintf("@%d:x", i)), func(context.Context) (fields []Field, err error) {
					for n := range 3 {
						fields = append(fields, Field{Name: fmt.Sprint(n), Value: json.RawMessage(strings.Clone(value))})
					}
					return fields, nil
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
