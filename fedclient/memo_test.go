package fedclient_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/fedclient"
)

func TestMemoAsksOnceAndForgetsInTime(t *testing.T) {
	now := time.Unix(1000, 0)
	m := fedclient.NewMemo[string, int](time.Minute, 2, 1, func() time.Time { return now })
	asked := 0
	get := func(key string) int {
		v, err := m.Get(t.Context(), key, func(context.Context) (int, error) { asked++; return asked, nil })
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for range 2 {
		if get("a") != 1 {
			t.Error("a second question was asked again")
		}
	}
	now = now.Add(time.Minute)
	if get("a") != 2 {
		t.Error("an old answer is remembered")
	}
	get("b")
	get("c") // the third of two
	if got := get("c"); got != 4 || asked != 4 {
		t.Errorf("got %d after %d questions", got, asked)
	}
}

func TestMemoDoesNotRememberErrors(t *testing.T) {
	m := fedclient.NewMemo[string, int](time.Minute, 2, 1, time.Now)
	broken := errors.New("broken")
	if _, err := m.Get(t.Context(), "a", func(context.Context) (int, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if v, err := m.Get(t.Context(), "a", func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Errorf("%d %v", v, err)
	}
}

// Whoever caused a request may leave: the others get its answer all the same.
func TestMemoSharesOneRequest(t *testing.T) {
	m := fedclient.NewMemo[string, int](time.Minute, 2, 1, time.Now)
	var asked atomic.Int32
	ctx, leave := context.WithCancel(t.Context())
	begun, finish := make(chan struct{}), make(chan struct{})
	ask := func(ctx context.Context) (int, error) {
		asked.Add(1)
		close(begun)
		<-finish
		return 3, ctx.Err()
	}
	var all sync.WaitGroup
	all.Go(func() { _, _ = m.Get(ctx, "a", ask) })
	<-begun
	leave()
	for range 3 {
		all.Go(func() {
			if v, err := m.Get(t.Context(), "a", ask); v != 3 || err != nil {
				t.Errorf("%d %v", v, err)
			}
		})
	}
	close(finish)
	all.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}
