package keyed_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ebb/keyed"
)

// load returns a loader that returns v.
func load[V any](v V) func(context.Context) (V, error) {
	return func(context.Context) (V, error) { return v, nil }
}

func TestMemoLoadsOncePerLifetime(t *testing.T) {
	now := time.Unix(1000, 0)
	m := keyed.NewMemo(keyed.Options[string, int]{Entries: 2, Lifetime: time.Minute, Loads: 1, Now: func() time.Time { return now }})
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
	now = now.Add(time.Minute - 1)
	if get("a") != 1 {
		t.Error("an answer was forgotten too early")
	}
	now = now.Add(1)
	if _, ok := m.Peek("a"); ok || get("a") != 2 {
		t.Error("an old answer is remembered")
	}
	get("b")
	get("c") // a third key where only two fit
	if got := get("c"); got != 4 || asked != 4 {
		t.Errorf("got %d after %d questions", got, asked)
	}
}

func TestMemoBoundsBytes(t *testing.T) {
	m := keyed.NewMemo(keyed.Options[int, string]{Bytes: 20, Size: func(_ int, v string) int64 { return int64(len(v)) }})
	for i := range 10 {
		if _, err := m.Get(t.Context(), i, load("12345")); err != nil {
			t.Fatal(err)
		}
		if m.Len() > 4 {
			t.Fatalf("%d values of 5 bytes", m.Len())
		}
	}
	if _, ok := m.Peek(9); !ok {
		t.Error("the newest value was not kept")
	}
}

func TestMemoWithoutBoundKeepsNothing(t *testing.T) {
	m := keyed.NewMemo(keyed.Options[string, int]{Loads: 1})
	for want := range 3 {
		if v, err := m.Get(t.Context(), "a", load(want)); v != want || err != nil {
			t.Errorf("%d %v, want %d", v, err, want)
		}
	}
}

func TestMemoDoesNotRememberErrors(t *testing.T) {
	m := keyed.NewMemo(keyed.Options[string, int]{Entries: 2})
	broken := errors.New("broken")
	if _, err := m.Get(t.Context(), "a", func(context.Context) (int, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if v, err := m.Get(t.Context(), "a", load(7)); v != 7 || err != nil {
		t.Errorf("%d %v", v, err)
	}
}

// The caller that started a load may leave; the others still receive its result.
func TestMemoSharesOneLoad(t *testing.T) {
	m := keyed.NewMemo(keyed.Options[string, int]{Entries: 2, Loads: 1})
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

func TestMemoDiscardsLoadsThatBeganBeforeForget(t *testing.T) {
	for name, forget := range map[string]func(*keyed.Memo[string, int]){
		"Forget":     func(m *keyed.Memo[string, int]) { m.Forget("a") },
		"ForgetFunc": func(m *keyed.Memo[string, int]) { m.ForgetFunc(func(key string) bool { return key == "a" }) },
		"Update":     func(m *keyed.Memo[string, int]) { m.Update("a", func(int) int { return 9 }) },
	} {
		t.Run(name, func(t *testing.T) {
			m := keyed.NewMemo(keyed.Options[string, int]{Entries: 4})
			var truth atomic.Int32
			begun, finish := make(chan struct{}), make(chan struct{})
			first := true
			result := make(chan int, 1)
			go func() {
				v, _ := m.Get(t.Context(), "a", func(context.Context) (int, error) {
					v := int(truth.Load())
					if first {
						first = false
						close(begun)
						<-finish
					}
					return v, nil
				})
				result <- v
			}()
			<-begun
			truth.Store(1)
			forget(m)
			// A caller that comes after the change does not wait for the load that began before it.
			if v, err := m.Get(t.Context(), "a", load(1)); v != 1 || err != nil {
				t.Errorf("after the change: %d %v", v, err)
			}
			close(finish)
			if v := <-result; v != 1 {
				t.Errorf("the caller whose load was overtaken got %d", v)
			}
			if v, ok := m.Peek("a"); !ok || v != 1 {
				t.Errorf("%d, %v is remembered", v, ok)
			}
		})
	}
}

func TestMemoUpdatesCachedValues(t *testing.T) {
	m := keyed.NewMemo(keyed.Options[string, int]{Entries: 4})
	m.Update("a", func(int) int { return 9 })
	if v, ok := m.Peek("a"); ok {
		t.Errorf("%d is remembered of what was never loaded", v)
	}
	_, _ = m.Get(t.Context(), "a", load(1))
	m.Update("a", func(v int) int { return v + 1 })
	if v, _ := m.Peek("a"); v != 2 {
		t.Error(v)
	}
}

// Only one load at a time is allowed. The second caller waits for the slot and leaves. The third caller, which waits
// for the second caller's load, must not receive the second caller's error.
func TestMemoWaitersSurviveACallerThatLeavesBeforeLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := keyed.NewMemo(keyed.Options[string, int]{Entries: 4, Loads: 1})
		finish := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			_, _ = m.Get(t.Context(), "slow", func(context.Context) (int, error) { <-finish; return 0, nil })
		})
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		all.Go(func() {
			if _, err := m.Get(ctx, "a", load(1)); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if v, err := m.Get(t.Context(), "a", load(2)); v != 2 || err != nil {
				t.Errorf("%d %v", v, err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		close(finish)
		all.Wait()
	})
}

func TestMemoSurvivesAPanic(t *testing.T) {
	m := keyed.NewMemo(keyed.Options[string, int]{Entries: 4, Loads: 1})
	func() {
		defer func() { _ = recover() }()
		_, _ = m.Get(t.Context(), "a", func(context.Context) (int, error) { panic("x") })
	}()
	if v, err := m.Get(t.Context(), "a", load(1)); v != 1 || err != nil {
		t.Errorf("%d %v", v, err)
	}
}

// A counter grows, and after each change its key is forgotten. No caller may read a value below the one that the
// counter had at the time of the call.
func TestMemoIsNeverStaleUnderConcurrentChanges(t *testing.T) {
	m := keyed.NewMemo(keyed.Options[int, int64]{Entries: 8})
	var truth atomic.Int64
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range 300 {
				atLeast := truth.Load()
				v, err := m.Get(t.Context(), 1, func(context.Context) (int64, error) { return truth.Load(), nil })
				if err != nil || v < atLeast {
					t.Errorf("%d (%v), want at least %d", v, err, atLeast)
				}
			}
		})
	}
	all.Go(func() {
		for range 300 {
			m.Forget(1)
			truth.Add(1)
			m.Forget(1)
		}
	})
	all.Wait()
}

func BenchmarkMemoGet(b *testing.B) {
	b.ReportAllocs()
	m := keyed.NewMemo(keyed.Options[int64, []int]{Entries: 100})
	for i := range b.N {
		if _, err := m.Get(b.Context(), int64(i%50), func(context.Context) ([]int, error) { return make([]int, i%2), nil }); err != nil {
			b.Fatal(err)
		}
	}
}
