package retention

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// rule returns the rule by which the given run purges a room, and records since when the room's policy has applied. It
// returns false if nothing expires in the room.
func (j *Job) rule(ctx context.Context, room *rooms.Room, run *run) (rule expiry.PurgeRule, ok bool, err error) {
	policy := room.Retention()
	if run.all {
		rule, ok = expiry.Standing{Policy: policy, Before: policy}.Rule(run.by)
		return rule, ok, nil
	}
	var row storage.RoomPolicy
	var known bool
	var override int64
	err = j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if row, known, err = tx.RoomPolicy(room.NID()); err == nil {
			override, err = tx.OverrideSetAt(room.NID())
		}
		return err
	})
	switch {
	case err != nil:
		return rule, false, err
	case policy.Max == nil && known:
		return rule, false, j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteRoomPolicy(room.NID()) })
	case policy.Max == nil:
		return rule, false, nil
	}
	_, stated := room.StatedRetention()
	stored := standingOf(row)
	before := stored
	before.Since = min(before.Since, run.now.UnixMilli()) // otherwise the clock was set back
	now := before.Observe(policy, known, j.changed(max(stated, override), known, run)).Settle(run.by, j.opts.Delay)
	recorded := known || override != 0 || stated != 0 || j.opts.Policy.ByKind.Any()
	if recorded && (!known || !now.Equal(stored)) {
		err = j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetRoomPolicy(rowOf(room.NID(), now)) })
	}
	rule, ok = now.Rule(run.by)
	return rule, ok, err
}

// changed returns the time (ms) of the last change that may have affected the policy of a room. set is when the last
// policy for the room arrived or was set, and known says that its policy is on record.
func (j *Job) changed(set int64, known bool, run *run) int64 {
	now, at := run.now.UnixMilli(), max(set, j.state.ConfigSince)
	if known && (j.opts.Policy.ByKind.Any() || at < j.observed.UnixMilli()) {
		// The room may have become one of another kind just now, or a policy that is older than the last run may have
		// become current, for example because a partial state was completed.
		return now
	}
	return min(at, now)
}

func standingOf(row storage.RoomPolicy) expiry.Standing {
	return expiry.Standing{
		Policy: expiry.Policy{Min: expiry.FromMillis(row.Min), Max: expiry.FromMillis(row.Max)}, Since: row.Since, Before: expiry.Policy{Min: expiry.FromMillis(row.BeforeMin), Max: expiry.FromMillis(row.BeforeMax)},
	}
}

func rowOf(room ident.RoomNID, s expiry.Standing) storage.RoomPolicy {
	return storage.RoomPolicy{
		Room: room, Min: expiry.Millis(s.Policy.Min), Max: expiry.Millis(s.Policy.Max), Since: s.Since, BeforeMin: expiry.Millis(s.Before.Min), BeforeMax: expiry.Millis(s.Before.Max),
	}
}

// noteConfig records when the retention settings of the configuration last changed.
func (j *Job) noteConfig(ctx context.Context) error {
	err := j.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		j.state, err = tx.PurgeState()
		return err
	})
	if sum := j.opts.fingerprint(); err == nil && sum != j.state.Config {
		j.state.Config, j.state.ConfigSince = sum, j.opts.Now().UnixMilli()
		return j.saveState(ctx)
	}
	return err
}

func (j *Job) saveState(ctx context.Context) error {
	state := j.state
	return j.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetPurgeState(state) })
}

// fingerprint returns a hash of the settings on which it depends what is purged.
func (o *Options) fingerprint() int64 {
	h, p := fnv.New64a(), &o.Policy
	limits := []*expiry.Policy{{Min: p.Limits.MinLifetime.Min, Max: p.Limits.MinLifetime.Max}, {Min: p.Limits.MaxLifetime.Min, Max: p.Limits.MaxLifetime.Max}}
	for _, policy := range append(limits, &p.Default, p.ByKind.Direct, p.ByKind.Private, p.ByKind.Public, p.ByKind.Encrypted) {
		if policy == nil {
			_, _ = fmt.Fprint(h, "none;")
			continue
		}
		_, _ = fmt.Fprint(h, text(policy.Min), text(policy.Max), ";")
	}
	if o.LeftRooms != nil || o.ForgottenRooms != nil {
		_, _ = fmt.Fprint(h, text(o.LeftRooms), text(o.ForgottenRooms))
	}
	return int64(h.Sum64() >> 1)
}

func text(d *time.Duration) string {
	if d == nil {
		return "-"
	}
	return d.String()
}
