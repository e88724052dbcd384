package server

import (
	"context"

	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/audit"
	"ebb/notices"
	"ebb/storage"
)

// factorJournal records in the audit log what happens to second factors, and alerts users of it.
type factorJournal struct {
	*audit.Log
	notices *notices.Service
}

// alerts has the acts of which a user is alerted, in words.
var alerts = map[factors.Kind]string{
	factors.FactorAdded:   "a second factor was added",
	factors.FactorRemoved: "a second factor was removed",
	factors.FactorsReset:  "all second factors were replaced by a new one, with a link from an administrator",
	factors.CodesMade:     "new recovery codes were made",
	factors.CodeUsed:      "a recovery code was used",
	factors.CountWentBack: "a passkey was used that may have been copied",
	factors.LinkMade:      "an administrator has created a link with which a new second factor can replace yours",
}

// Record implements factors.Journal.
func (j factorJournal) Record(ctx context.Context, tx *storage.Tx, a factors.Act) error {
	if err := j.Add(ctx, tx, string(a.Kind), a.Attrs()...); err != nil {
		return err
	}
	if a.Kind == factors.Recovered {
		return j.notices.AddForAdministrators(tx, notices.Notice{Kind: notices.Recovered, Details: notices.Details{Account: a.UserID}})
	}
	what, alerted := alerts[a.Kind]
	if !alerted {
		return nil
	}
	if name := factorName(a.Factor); name != "" && (a.Kind == factors.FactorAdded || a.Kind == factors.FactorRemoved) {
		what += ", " + name
	}
	add := j.notices.Add
	if a.Kind == factors.CodesMade { // an account gets them together with its first factor
		add = j.notices.AddFirst
	}
	return add(tx, notices.Notice{User: a.User, Kind: notices.FactorChanged, Details: notices.Details{What: what}})
}

func factorName(factor gate.Evidence) string {
	switch {
	case factor&gate.TOTP != 0:
		return "one-time codes"
	case factor&(gate.SecurityKey|gate.Passkey) != 0:
		return "a passkey"
	}
	return ""
}

// Failed implements factors.Journal.
func (j factorJournal) Failed(ctx context.Context, user, reason string) {
	j.Log.Failed(ctx, user, reason)
	j.notices.WrongCode(user)
}
