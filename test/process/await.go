package process

import (
	"testing"
	"time"
)

// Await waits for something that the server does in the background. It fails the test if done does not return true
// within a time.
func Await(t testing.TB, within time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}
