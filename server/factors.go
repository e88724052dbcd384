package server

import (
	"context"

	"ebb/accounts/factors"
	"ebb/audit"
	"ebb/storage"
)

// factorJournal records in the audit log what happens to second factors.
type factorJournal struct{ *audit.Log }

// Record implements factors.Journal.
func (j factorJournal) Record(ctx context.Context, tx *storage.Tx, a factors.Act) error {
	return j.Add(ctx, tx, string(a.Kind), a.Attrs()...)
}
