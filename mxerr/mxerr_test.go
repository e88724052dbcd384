package mxerr

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestCauseAppearsOnlyInTheLog(t *testing.T) {
	cause := errors.New("disk on fire")
	err := fmt.Errorf("store: %w", Forbidden("You may not %s", "write").Because(cause))
	if !errors.Is(err, cause) || Code(err) != CodeForbidden {
		t.Fatal(err)
	}
	var e *Error
	if !errors.As(err, &e) || e.Status != 403 || e.Msg != "You may not write" {
		t.Fatalf("%+v", e)
	}
	if Code(cause) != "" {
		t.Error("an error of another kind has a code")
	}
}

func TestWithAndBecauseDoNotModifyTheOriginal(t *testing.T) {
	base := UnknownToken(true)
	more := base.With("flows", 1).Because(errors.New("x"))
	if base.Unwrap() != nil || len(base.Extra) != 1 || base.Extra["soft_logout"] != true {
		t.Fatalf("%+v was changed", base)
	}
	if len(more.Extra) != 2 || more.Unwrap() == nil {
		t.Fatalf("%+v", more)
	}
}

func TestLimitExceededRetryAfterIsNeverZero(t *testing.T) {
	for wait, ms := range map[time.Duration]int64{0: 1, time.Microsecond: 1, 1500 * time.Millisecond: 1500} {
		if e := LimitExceeded(wait); e.Status != 429 || e.Extra["retry_after_ms"] != ms {
			t.Errorf("%v: %+v", wait, e)
		}
	}
}
