package erasure

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Status is how far the erasure of a user has come.
type Status struct {
	User      id.UserID
	Requested time.Time
	Stage     string
	Held      bool      // it waits for a legal hold
	Redacted  int64     // events for which a redaction was sent
	Removed   int64     // events that were removed from this server only
	Media     int64     // files that were deleted besides those of redacted events
	Finished  time.Time // zero: it is not
}

// stages describe the stages of an erasure.
var stages = map[int64]string{
	stageBegins:   "begins",
	stageRedacts:  "redacts messages and names",
	stageRechecks: "looks for more messages",
	stageLeaves:   "leaves rooms",
	stageRemoves:  "looks for more messages",
	stageDeletes:  "deletes media and other data",
	stageDone:     "finished",
}

// Status describes the erasure of a user.
//
// Errors: M_NOT_FOUND.
func (j *Job) Status(ctx context.Context, user ident.UserNID) (out Status, err error) {
	var row storage.ErasureRow
	found := false
	err = j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if row, found, err = tx.Erasure(user); err == nil && found && row.FinishedTS == 0 {
			row.Redacted, row.Removed, err = tx.ErasureCounts(user)
		}
		return err
	})
	if err == nil && !found {
		err = mxerr.NotFound("It was not requested that everything about this user be erased")
	}
	if err != nil {
		return out, err
	}
	return j.status(ctx, &row)
}

func (j *Job) status(ctx context.Context, row *storage.ErasureRow) (out Status, err error) {
	out = Status{
		User: id.UserID(row.UserID), Requested: time.UnixMilli(row.RequestedTS), Stage: stages[row.Stage], Redacted: row.Redacted, Removed: row.Removed, Media: row.Media,
	}
	if row.FinishedTS != 0 {
		out.Finished = time.UnixMilli(row.FinishedTS)
	}
	if row.Stage == stageDeletes {
		encrypted, err := j.encryptedRooms(ctx, row.User)
		if err != nil {
			return out, err
		}
		out.Held = j.held(row.User, encrypted)
	}
	return out, nil
}
