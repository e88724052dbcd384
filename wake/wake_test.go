package wake_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"ebb/ident"
	"ebb/wake"
)

type set map[ident.UserNID]bool

func (s set) Len() int                    { return len(s) }
func (s set) Has(user ident.UserNID) bool { return s[user] }
func (s set) Each(f func(ident.UserNID) bool) {
	for u := range s {
		if !f(u) {
			return
		}
	}
}

// reader is a parked reader. Its wake-ups are counted.
type reader struct {
	*wake.Sub
	wakeUps atomic.Int64
}

func park(h *wake.Hub, user ident.UserNID, device ident.DeviceNID) *reader {
	r := &reader{}
	r.Sub = h.Park(user, device, func() { r.wakeUps.Add(1) })
	return r
}

// woken reports whether there were wake-ups since the last call.
func (r *reader) woken() bool { return r.wakeUps.Swap(0) > 0 }

func TestUsersWakesEveryReaderOfTheUserOnly(t *testing.T) {
	h := wake.New()
	a, b, other := park(h, 1, 10), park(h, 1, 11), park(h, 2, 20)
	h.Users(1, 7)
	if !a.woken() || !b.woken() || other.woken() {
		t.Fatal("want both readers of user 1 woken and user 2 left alone")
	}
}

func TestMembersWakesTheIntersectionFromEitherSide(t *testing.T) {
	h := wake.New()
	subs := map[ident.UserNID]*reader{}
	for u := ident.UserNID(1); u <= 5; u++ {
		subs[u] = park(h, u, ident.DeviceNID(u))
	}
	big := set{}
	for u := ident.UserNID(4); u <= 100; u++ {
		big[u] = true
	}
	for _, members := range []set{{4: true, 5: true, 9: true}, big} {
		h.Members(members)
		for u, s := range subs {
			if got := s.woken(); got != members[u] {
				t.Errorf("%d members: user %d woken = %v, want %v", len(members), u, got, members[u])
			}
		}
	}
}

func TestClosedReaderIsNeitherWokenNorCounted(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
		h := wake.New()
		subs := []*reader{park(h, 1, 1), park(h, 1, 2), park(h, 1, 3)}
		for n, i := range order {
			subs[i].Close()
			subs[i].Close()
			h.Users(1)
			if subs[i].woken() {
				t.Fatalf("order %v: a closed reader was woken", order)
			}
			for _, j := range order[n+1:] {
				if !subs[j].woken() {
					t.Fatalf("order %v: reader %d is parked and was not woken", order, j)
				}
			}
			if got, want := h.Parked(), len(order)-n-1; got != want {
				t.Fatalf("order %v: %d parked, want %d", order, got, want)
			}
		}
	}
}

func TestConcurrentParkingAndWakingLosesNoWakeUp(t *testing.T) {
	h := wake.New()
	var wg sync.WaitGroup
	for u := range ident.UserNID(8) {
		wg.Go(func() {
			for range 500 {
				s := park(h, u, 1)
				h.Users(u)
				if !s.woken() {
					t.Error("a wake-up after Park was lost")
				}
				s.Close()
			}
		})
	}
	wg.Wait()
	if n := h.Parked(); n != 0 {
		t.Fatalf("%d readers left over", n)
	}
}

func TestWatcherCountsNewsOfItsUserAndDeviceOnly(t *testing.T) {
	h := wake.New()
	w := h.Watch(1, 10)
	h.Users(2)
	h.Members(set{1: true})
	if own, rooms := w.News(); own != 0 || rooms != 1 {
		t.Fatalf("%d news of its own and %d of rooms, want 0 and 1", own, rooms)
	}
	h.Users(1)
	h.Users(1, 2)
	if own, rooms := w.News(); own != 2 || rooms != 1 {
		t.Fatalf("%d news of its own and %d of rooms, want 2 and 1", own, rooms)
	}
	if h.Parked() != 0 {
		t.Fatal("a watcher counts as parked")
	}
	w.Close()
}
