package fedclient

import (
	"context"
	"fmt"
	"testing"
	"time"

	"ebb/storage"
)

// Anybody with a domain can make this server request the keys of any number of names.
func TestStoredKeyAnswersAreBounded(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	count := func() (n int) {
		err := k.db.Read(context.Background(), func(tx *storage.Tx) error {
			for i := range maxKeyAnswers + 50 {
				if _, known, err := tx.ServerKeyAnswerOf(fmt.Sprintf("%d.evil.test", i)); err != nil {
					return err
				} else if known {
					n++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	err := k.db.Write(context.Background(), func(tx *storage.Tx) error {
		for i := range maxKeyAnswers + 50 {
			server := fmt.Sprintf("%d.evil.test", i)
			if err := tx.PutServerKeyAnswer(server, storage.ServerKeyAnswer{JSON: "{}", FetchedTS: int64(i + 1)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !has(t, k, a.want(time.Millisecond)) {
		t.Fatal("no key")
	}
	if n := count(); n != maxKeyAnswers {
		t.Errorf("%d answers are kept", n)
	}
}
