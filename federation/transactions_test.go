package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/storage"
)

// working returns a work function that waits for release and then returns its number.
func working(n *int, release chan struct{}) func() (transactionAnswer, error) {
	return func() (transactionAnswer, error) {
		<-release
		*n++
		return transactionAnswer{PDUs: map[id.EventID]pduResult{id.EventID(fmt.Sprint("$", *n)): {}}}, nil
	}
}

func TestARepeatedTransactionWaitsForTheFirstAndGetsItsResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, n, release := newTransactions(), 0, make(chan struct{})
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				answer, err := tr.once(t.Context(), transactionKey{"a", "1"}, working(&n, release))
				if got, _ := answer.(transactionAnswer); err != nil || len(got.PDUs) != 1 || got.PDUs["$1"].Error != "" {
					t.Errorf("answered %v %v", answer, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		all.Wait()
		if n != 1 {
			t.Errorf("worked %d times", n)
		}
		if _, err := tr.once(t.Context(), transactionKey{"b", "1"}, working(&n, release)); err != nil || n != 2 {
			t.Errorf("the same id of another server: worked %d times, %v", n, err)
		}
	})
}

func TestAServerThatSendsManyTransactionsAtOnceIsSlowedDownAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, n, release := newTransactions(), 0, make(chan struct{})
		var all sync.WaitGroup
		for i := range maxUnderWay {
			all.Go(func() { _, _ = tr.once(t.Context(), transactionKey{"a", fmt.Sprint(i)}, working(&n, release)) })
		}
		synctest.Wait()
		if _, err := tr.once(t.Context(), transactionKey{"a", "more"}, working(&n, release)); mxerr.Code(err) != mxerr.CodeLimitExceeded {
			t.Errorf("one more: %v", err)
		}
		other, free := 0, make(chan struct{})
		close(free)
		if _, err := tr.once(t.Context(), transactionKey{"b", "1"}, working(&other, free)); err != nil || other != 1 {
			t.Errorf("another server: %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		close(release)
		all.Wait()
		if n != maxUnderWay {
			t.Errorf("worked %d times", n)
		}
		if _, err := tr.once(gone, transactionKey{"a", "0"}, working(&n, release)); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestFailedTransactionsAreNotCached(t *testing.T) {
	tr := newTransactions()
	full := errors.New("the disk is full")
	if _, err := tr.once(t.Context(), transactionKey{"a", "1"}, func() (transactionAnswer, error) { return transactionAnswer{}, full }); !errors.Is(err, full) {
		t.Errorf("answered %v", err)
	}
	worked := false
	_, err := tr.once(t.Context(), transactionKey{"a", "1"}, func() (transactionAnswer, error) { worked = true; return transactionAnswer{}, nil })
	if err != nil || !worked {
		t.Errorf("again: %v %v", worked, err)
	}
}

// Messages between devices arrive as EDUs, and must not be confirmed unless they are stored.
func TestEDUsThatCannotBeStoredFailTheTransaction(t *testing.T) {
	handled := 0
	returning := func(err error) EDU {
		return func(context.Context, string, json.RawMessage) error { handled++; return err }
	}
	a := &API{Log: slog.New(slog.DiscardHandler), EDUs: map[string]EDU{
		"good": returning(nil), "bad": returning(mxerr.Forbidden("no")), "unstored": returning(fmt.Errorf("a write: %w", storage.ErrFull)),
	}}
	list := []ephemeral{{Type: "good"}, {Type: "bad"}, {Type: "unknown"}}
	if err := a.receiveEDUs(t.Context(), "a.test", list); err != nil {
		t.Errorf("one of them is invalid: %v", err)
	}
	if err := a.receiveEDUs(t.Context(), "a.test", append([]ephemeral{{Type: "unstored"}}, list...)); !errors.Is(err, storage.ErrFull) || handled != 5 {
		t.Errorf("one cannot be stored: %v, %d were handled", err, handled)
	}
}

func TestCachedResponsesOfOneServerAreBounded(t *testing.T) {
	tr := newTransactions()
	quick := func() (transactionAnswer, error) { return transactionAnswer{}, nil }
	for i := range 3 * maxAnswers {
		if _, err := tr.once(t.Context(), transactionKey{"a", fmt.Sprint(i)}, quick); err != nil {
			t.Fatal(err)
		}
	}
	if list, _ := tr.answers.Get("a"); len(list) != maxAnswers || list[0].txn != fmt.Sprint(2*maxAnswers) {
		t.Errorf("%d answers of one server: %v", len(list), list)
	}
}

// One person can have any number of server names.
func TestCachedResponsesOfAllServersAreBounded(t *testing.T) {
	tr, answer := newTransactions(), transactionAnswer{PDUs: map[id.EventID]pduResult{}}
	for i := range maxPDUs {
		answer.PDUs[id.EventID(fmt.Sprintf("$%0250d", i))] = pduResult{strings.Repeat("x", 300)}
	}
	size := sizeOfAnswers("a", []answered{{"1", answer}})
	if size < 50*550 {
		t.Errorf("a response with %d results counts as %d bytes", maxPDUs, size)
	}
	for i := range 3 * maxAnswerBytes / size {
		if _, err := tr.once(t.Context(), transactionKey{fmt.Sprint(i), "1"}, func() (transactionAnswer, error) { return answer, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if n := int64(tr.answers.Len()); n*size > maxAnswerBytes || n < maxAnswerBytes/size/3 {
		t.Errorf("%d responses of %d bytes are cached", n, size)
	}
}
