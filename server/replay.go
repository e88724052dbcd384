package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/backup"
	"ebb/holds"
	"ebb/ident"
	"ebb/redactions"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/pace"
)

// replayBatch is the number of ledger entries that are applied in one write.
const replayBatch = 500

// replayRows opens the restored database, prepares it for use, and applies those ledger entries that concern only rows.
func (r *restore) replayRows(ctx context.Context) (err error) {
	db, err := openDatabase(ctx, r.cfg, r.opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	r.position = db.Settled()
	usable, err := r.checkLedger(ctx, db)
	if err != nil {
		return err
	}
	r.report.SignedOut = !usable
	if err := db.MarkRestored(ctx, !usable); err != nil {
		return err
	}
	if err := r.recordRestore(ctx, db); err != nil {
		return err
	}
	var batch []storage.LedgerEntry
	apply := func() error {
		entries := batch
		batch = nil
		return db.Write(ctx, func(tx *storage.Tx) error {
			for _, e := range entries {
				if err := r.applyRow(tx, e); err != nil {
					return fmt.Errorf("entry %q of the ledger: %w", e.Kind, err)
				}
			}
			return nil
		})
	}
	err = r.eachEntry(backup.LedgerKey(db), func(e storage.LedgerEntry) error {
		if batch = append(batch, e); len(batch) < replayBatch {
			return nil
		}
		return apply()
	})
	if err != nil {
		return err
	}
	return apply()
}

// recordRestore adds a record of the restore to the audit log, whose newest records may be missing now.
func (r *restore) recordRestore(ctx context.Context, db *storage.DB) error {
	ring, err := openSecrets(ctx, db, r.cfg)
	if err != nil {
		return err
	}
	log := audit.New(audit.Options{DB: db, Server: r.cfg.ServerName, Secrets: ring, Now: r.opt.Now, Log: r.opt.Log})
	return log.Restored(audit.WithActor(ctx, "command line"), r.manifest.Created)
}

// checkLedger checks the ledger. It returns false if the restored server must not trust the sessions of the backup,
// because there is no ledger or it is damaged.
func (r *restore) checkLedger(ctx context.Context, db *storage.DB) (usable bool, err error) {
	if r.Ledger == "" {
		return false, nil
	}
	mark := r.manifest.Ledger
	if mark == nil {
		mark = new(storage.LedgerHead)
	}
	end, err := backup.ReadLedger(r.Ledger, backup.LedgerKey(db), nil)
	if err == nil && end.Line < mark.Line {
		err = fmt.Errorf("%w: %s ends at line %d, but had line %d when the backup was made", backup.ErrLedger, r.Ledger, end.Line, mark.Line)
	}
	if !end.Time.IsZero() {
		r.report.LedgerEnd = &end.Time
	}
	if errors.Is(err, backup.ErrLedger) && r.Damaged {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w; find an undamaged copy, or use --damaged-ledger to apply what is left of it and to end all sessions", err)
	}
	return true, ctx.Err()
}

// eachEntry calls f for the ledger entries that were made after the backup.
func (r *restore) eachEntry(key []byte, f func(storage.LedgerEntry) error) error {
	if r.Ledger == "" {
		return nil
	}
	_, err := backup.ReadLedger(r.Ledger, key, func(e storage.LedgerEntry) error {
		if e.Seq <= r.position {
			return nil
		}
		return f(e)
	})
	if errors.Is(err, backup.ErrLedger) && r.Damaged {
		return nil
	}
	return err
}

// applyRow applies an entry that needs no service. It does nothing if the backup does not have what the entry is about.
func (r *restore) applyRow(tx *storage.Tx, e storage.LedgerEntry) error {
	user := ident.UserNID(e.Ref)
	var err error
	switch e.Kind {
	case storage.LedgerRedacted:
		return r.redactAgain(tx, e)
	case storage.LedgerRemoved:
		removed, err := rooms.RemoveAgain(tx, storage.Pos(e.Ref))
		if removed && err == nil {
			r.report.Replayed[e.Kind]++
		}
		return err
	case storage.LedgerPassword:
		return r.dropPassword(tx, user)
	case storage.LedgerAdmin:
		err = tx.SetAdmin(user, e.Value != 0)
	case storage.LedgerLocked:
		err = tx.SetLocked(user, e.Value != 0)
	case storage.LedgerSuspended:
		err = tx.SetSuspended(user, e.Value != 0)
	case storage.LedgerTokens:
		err = tx.DeleteDeviceTokens(ident.DeviceNID(e.Ref))
	case storage.LedgerTOTP:
		_, err = tx.DeleteTOTP(user)
	case storage.LedgerPasskey:
		_, err = tx.DeletePasskey(user, e.Name)
	case storage.LedgerRecovery:
		if e.Name == "" {
			err = tx.SetRecoveryCodes(user, nil)
		} else {
			_, err = tx.TakeRecoveryCode(user, e.Name)
		}
	case storage.LedgerHold:
		added, err := tx.AddHoldAgain(e)
		if added {
			r.report.Replayed[e.Kind]++
		}
		if !added && err == nil {
			r.report.Holds, err = appendMissing(tx, r.report.Holds, e.Value)
		}
		return err
	case storage.LedgerLifted:
		r.report.Holds = slices.DeleteFunc(r.report.Holds, func(nid int64) bool { return nid == e.Ref })
		lifted, err := holds.LiftAgain(tx, e.Ref, e.TS)
		if lifted {
			r.report.Replayed[e.Kind]++
		}
		return err
	case storage.LedgerLifetime:
		done, err := redactions.SetLifetimeAgain(tx, e)
		if done {
			r.report.Replayed[e.Kind]++
		}
		return err
	case storage.LedgerReceipt:
		err = tx.AddReceiptAgain(e)
	case storage.LedgerRoom:
		removed, err := tx.RemoveRoomAgain(ident.RoomNID(e.Ref))
		if removed {
			r.report.Replayed[e.Kind]++
		}
		return err
	case storage.LedgerFactors:
		err = tx.DeleteFactors(user)
	case storage.LedgerIdentity:
		err = tx.DeleteIdentityAgain(user, e.Name)
	case storage.LedgerEmail:
		err = tx.DeleteEmailAgain(user, e.Value)
	case storage.LedgerMedia:
		_, err = tx.DeleteMedia(e.Name)
	case storage.LedgerQuarantine:
		of, mediaID, _ := strings.Cut(e.Name, "/")
		_, err = tx.QuarantineMedia(storage.MediaName{Server: of, ID: mediaID}, e.Value != 0)
	default:
		return nil // replayServices applies the others
	}
	r.report.Replayed[e.Kind]++
	return err
}

// appendMissing appends the number of a hold to a list if the restored database does not have it.
func appendMissing(tx *storage.Tx, list []int64, nid int64) ([]int64, error) {
	_, found, err := tx.LegalHold(nid)
	if err != nil || found {
		return list, err
	}
	return append(list, nid), nil
}

// redactAgain replaces an event by its redacted form. The redaction itself may be lost. The original is kept as if it
// had been redacted when the entry was made; the purge that follows deletes it unless something keeps it.
func (r *restore) redactAgain(tx *storage.Tx, e storage.LedgerEntry) error {
	p, by := storage.Pos(e.Ref), storage.Pos(e.Value)
	row, found, err := tx.EventAt(p)
	if err != nil || !found || row.RedactedBy != 0 {
		return err
	}
	room, found, err := tx.RoomByNID(row.Room)
	if err != nil || !found {
		return err
	}
	v, known := pdu.VersionOf(id.RoomVersion(room.Version))
	if !known {
		return nil
	}
	ev, err := pdu.ParseStored(v, id.EventID(row.EventID), row.JSON)
	if err != nil {
		return err
	}
	redacted, err := ev.Redact()
	if err != nil {
		return err
	}
	r.report.Replayed[storage.LedgerRedacted]++
	o := &storage.Original{Position: p, Room: row.Room, RedactedTS: e.TS, Readable: by != 0 && r.cfg.Retention.Redacted > 0}
	return tx.RedactKeepingOriginal(o, row.EventID, redacted.JSON(), by)
}

// dropPassword removes a password that was changed after the backup.
func (r *restore) dropPassword(tx *storage.Tx, user ident.UserNID) error {
	a, found, err := tx.Account(user)
	if err != nil || !found || !a.HasPassword() {
		return err
	}
	r.report.Replayed[storage.LedgerPassword]++
	r.report.Passwords = append(r.report.Passwords, "@"+a.Localpart+":"+r.cfg.ServerName)
	return tx.SetPassword(user, storage.UnusablePassword)
}

// replayServices applies the other entries of the ledger through the services, and purges what has expired.
func (r *restore) replayServices(ctx context.Context) (err error) {
	s, err := New(ctx, r.cfg, r.opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	err = r.eachEntry(backup.LedgerKey(s.svc.db), func(e storage.LedgerEntry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return r.applyByService(ctx, s.svc, e)
	})
	if err != nil {
		return err
	}
	report, err := s.svc.retention.Purge(ctx, true)
	r.report.Purged = report.Events
	if err != nil {
		return err
	}
	if _, err := s.svc.media.Unlink(ctx); err != nil {
		return err
	}
	return s.svc.db.Maintain(ctx)
}

func (r *restore) applyByService(ctx context.Context, s *services, e storage.LedgerEntry) error {
	done, err := false, error(nil)
	switch e.Kind {
	case storage.LedgerDevice:
		done, err = deleteAgain(ctx, s, ident.DeviceNID(e.Ref))
	case storage.LedgerDeactivated:
		done, err = deactivateAgain(ctx, s, ident.UserNID(e.Ref), storage.Erasure(e.Value))
	case storage.LedgerPurged:
		done, err = purgeAgain(ctx, s.rooms, ident.RoomNID(e.Ref), e.Name)
	case storage.LedgerOverride:
		done, err = overrideAgain(ctx, s.rooms, ident.RoomNID(e.Ref), e.Name)
	}
	if done {
		r.report.Replayed[e.Kind]++
	}
	return err
}

// deleteAgain deletes a device if it exists.
func deleteAgain(ctx context.Context, s *services, device ident.DeviceNID) (done bool, err error) {
	var user ident.UserNID
	var deviceID string
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		user, deviceID, done, err = tx.DeviceOwner(device)
		return err
	})
	if err != nil || !done {
		return false, err
	}
	return true, s.accounts.DeleteDevices(ctx, user, []id.DeviceID{id.DeviceID(deviceID)})
}

// deactivateAgain closes an account if it exists and is active, and erases the user if that has not been done. What
// takes long continues when the server starts.
func deactivateAgain(ctx context.Context, s *services, user ident.UserNID, erase storage.Erasure) (done bool, err error) {
	name := ""
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		a, found, err := tx.Account(user)
		if err != nil || !found {
			return err
		}
		if erased, err := erasedSoFar(tx, user); err != nil || a.DeactivatedTS != 0 && erased >= erase {
			return err
		}
		name, err = tx.UserID(user)
		return err
	})
	switch {
	case err != nil || name == "":
		return false, err
	case erase == storage.NotErased:
		err = s.accounts.Deactivate(ctx, id.UserID(name), erase)
	default:
		err = s.accounts.Erase(ctx, id.UserID(name), erase)
	}
	return err == nil, err
}

// erasedSoFar returns how much of a user has been erased, or will be.
func erasedSoFar(tx *storage.Tx, user ident.UserNID) (storage.Erasure, error) {
	if _, found, err := tx.Erasure(user); err != nil || found {
		return storage.ErasedEverything, err
	}
	erased, err := tx.IsErased(user)
	if err != nil || !erased {
		return storage.NotErased, err
	}
	return storage.Erased, nil
}

// overrideAgain sets or removes the administrator's retention policy for a room, if the room exists.
func overrideAgain(ctx context.Context, s *rooms.Service, room ident.RoomNID, text string) (done bool, err error) {
	var policy *expiry.Policy
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		return false, err
	}
	r, err := s.RoomByNID(ctx, room)
	if errors.Is(err, rooms.ErrNoRoom) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.SetRetentionOverride(ctx, r.ID(), policy)
}

// purgeAgain repeats a purge of a room by its rule, if the room exists.
func purgeAgain(ctx context.Context, s *rooms.Service, room ident.RoomNID, text string) (done bool, err error) {
	rule, err := expiry.ParsePurgeRule(text)
	if err != nil {
		return false, err
	}
	r, err := s.RoomByNID(ctx, room)
	if errors.Is(err, rooms.ErrNoRoom) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for after, more := (rooms.PurgeCursor{}), true; more && err == nil; {
		var out rooms.Purged
		out, err = s.Purge(ctx, r, rule, after, pace.Fixed(rooms.PurgeBatch))
		after, more = out.Next, out.More
	}
	return true, err
}
