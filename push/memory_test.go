package push

import (
	"fmt"
	"strings"
	"testing"

	"ebb/ident"
	"ebb/internal/heaptest"
	"ebb/keyed"
	"ebb/storage"
)

func TestPushersInMemoryAreBoundedInBytes(t *testing.T) {
	for name, data := range map[string]string{"small": "", "large": strings.Repeat("x", 15_000)} {
		t.Run(name, func(t *testing.T) {
			const bound = 1 << 20
			targets := keyed.NewSizedMap(bound, func(_ ident.PusherNID, t *target) int64 { return t.size() })
			heaptest.Bounded(t, bound, 15_000_000/(1000+len(data)), func(i int) {
				to, err := newTarget(&storage.PusherRow{
					UserID: fmt.Sprintf("@%d:x", i), AppID: fmt.Sprint("a", i), Pushkey: fmt.Sprint(i), Data: fmt.Sprintf(`{"url":"https://x/_matrix/push/v1/notify","a%d":%q}`, i, data),
				})
				if err != nil {
					t.Fatal(err)
				}
				targets.Put(ident.PusherNID(i), to)
			})
		})
	}
}
