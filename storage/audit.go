package storage

import (
	"context"
	"errors"
	"slices"
)

// AuditRow is a record of the audit log.
type AuditRow struct {
	Seq      int64 // the number of the record, from 1
	TS       int64 // ms; when the record was added
	Kind     string
	Salt     string // hashed together with the body; "" if the body was removed
	Body     string // JSON; "" if it was removed
	BodyHash string
	Hash     string

	Networks     string // JSON; "": none, or removed
	NetworksSalt string // "" without networks
}

const (
	auditColumns    = `seq, ts, kind, salt, body, body_hash, hash, networks, networks_salt`
	oldAuditColumns = `seq, ts, kind, salt, body, body_hash, hash, '', ''` // before networksFile
)

func scanAudit(r Row) (a AuditRow, err error) {
	err = r.Scan(&a.Seq, &a.TS, &a.Kind, &a.Salt, &a.Body, &a.BodyHash, &a.Hash, &a.Networks, &a.NetworksSalt)
	return a, err
}

// LastAudit returns the newest record of the audit log.
func (tx *Tx) LastAudit() (AuditRow, bool, error) {
	return one(tx, scanAudit, `SELECT `+auditColumns+` FROM audit ORDER BY seq DESC LIMIT 1`)
}

const addAuditQuery = `INSERT INTO audit (` + auditColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

// AddAudit appends a record to the audit log.
func (tx *Tx) AddAudit(a AuditRow) error {
	_, err := tx.exec(addAuditQuery, a.Seq, a.TS, a.Kind, a.Salt, a.Body, a.BodyHash, a.Hash, a.Networks, a.NetworksSalt)
	return err
}

const (
	// It uses the index audit_bodies.
	oldAuditBodiesQuery   = `SELECT seq FROM audit WHERE ts < $1 AND body <> '' ORDER BY ts, seq LIMIT $2`
	pruneAuditBodiesQuery = `UPDATE audit SET body = '', salt = '', networks = '', networks_salt = '' WHERE seq <= $1 AND body <> '' AND ts < $2`
)

// PruneAudit removes the bodies and networks of the oldest records from before a time (ms), at most limit at once. It
// returns the number of the last of these records, or 0 if there are none.
func (tx *Tx) PruneAudit(beforeTS int64, limit int) (last int64, err error) {
	old, err := collect(tx, scanNumber[int64], oldAuditBodiesQuery, beforeTS, limit)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	last = slices.Max(old)
	_, err = tx.exec(pruneAuditBodiesQuery, last, beforeTS)
	return last, err
}

const (
	// It uses the index audit_networks.
	oldAuditNetworksQuery   = `SELECT seq FROM audit WHERE ts < $1 AND networks <> '' ORDER BY ts, seq LIMIT $2`
	pruneAuditNetworksQuery = `UPDATE audit SET networks = '', networks_salt = '' WHERE seq <= $1 AND networks <> '' AND ts < $2`
)

// PruneAuditNetworks removes the networks of the oldest records from before a time (ms), at most limit at once. It
// returns the number of the last of these records, or 0 if there are none.
func (tx *Tx) PruneAuditNetworks(beforeTS int64, limit int) (last int64, err error) {
	old, err := collect(tx, scanNumber[int64], oldAuditNetworksQuery, beforeTS, limit)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	last = slices.Max(old)
	_, err = tx.exec(pruneAuditNetworksQuery, last, beforeTS)
	return last, err
}

// AuditDelivered returns the number of the newest record of which a sink has received a checkpoint, or 0 if there is
// none.
func (tx *Tx) AuditDelivered(sink string) (int64, error) {
	seq, _, err := one(tx, scanNumber[int64], `SELECT seq FROM audit_sinks WHERE sink = $1`, sink)
	return seq, err
}

// SetAuditDelivered records that a sink has received a checkpoint of the record with the number seq.
func (tx *Tx) SetAuditDelivered(sink string, seq int64) error {
	_, err := tx.exec(`INSERT INTO audit_sinks (sink, seq) VALUES ($1, $2) ON CONFLICT (sink) DO UPDATE SET seq = excluded.seq`, sink, seq)
	return err
}

// Names of the rows of meta with the key that signs checkpoints, encrypted, and with its public part.
const (
	metaAuditKey      = "audit_key"
	metaAuditVerifier = "audit_verifier"
)

// AuditKey returns the key that signs checkpoints, encrypted, and its public part. Both are "" if there is none.
func (tx *Tx) AuditKey() (sealed, verifier string, err error) {
	if sealed, err = tx.metaText(metaAuditKey); err != nil {
		return "", "", err
	}
	verifier, err = tx.metaText(metaAuditVerifier)
	return sealed, verifier, err
}

// SetAuditKey stores the key that signs checkpoints.
func (tx *Tx) SetAuditKey(sealed, verifier string) error {
	if err := tx.setMetaText(metaAuditKey, sealed); err != nil {
		return err
	}
	return tx.setMetaText(metaAuditVerifier, verifier)
}

// metaAuditRestored is the row of meta with the record of the last restore, encrypted.
const metaAuditRestored = "audit_restored"

// AuditRestored returns which record of the audit log is of the last restore from a backup, encrypted, or "" if there
// was none.
func (tx *Tx) AuditRestored() (sealed string, err error) { return tx.metaText(metaAuditRestored) }

// SetAuditRestored stores which record of the audit log is of the last restore.
func (tx *Tx) SetAuditRestored(sealed string) error { return tx.setMetaText(metaAuditRestored, sealed) }

// metaAuditedSettings is the row of meta with the settings that the audit log has last recorded.
const metaAuditedSettings = "audited_settings"

// AuditedSettings returns the settings that SetAuditedSettings stored, "" if there are none.
func (tx *Tx) AuditedSettings() (settings string, err error) { return tx.metaText(metaAuditedSettings) }

// SetAuditedSettings stores the settings of the server, with which those of its next start are compared.
func (tx *Tx) SetAuditedSettings(settings string) error {
	return tx.setMetaText(metaAuditedSettings, settings)
}

// ErrNoAudit means that a database has no audit log.
var ErrNoAudit = errors.New("the database has no audit log")

// The migrations that create the table audit, and that add the networks to it.
const (
	auditFile    = "0056_audit.sql"
	networksFile = "0074_audit_networks.sql"
)

// PeekAudit reads the audit log of a database without changing the database, which may be in use or a backup. It calls
// f for every record, in order, and returns the public part of the key that signs checkpoints.
func PeekAudit(ctx context.Context, dsn string, f func(AuditRow) error) (verifier string, err error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return "", err
	}
	c, err := d.peek(ctx)
	if c == nil || err != nil {
		return "", errors.Join(err, errOrNil(c == nil && err == nil, ErrNoAudit))
	}
	defer func() { err = errors.Join(err, c.close()) }()
	applied, err := appliedMigrations(c)
	if err != nil {
		return "", err
	}
	if !slices.Contains(applied, auditFile) {
		return "", ErrNoAudit
	}
	columns := auditColumns
	if !slices.Contains(applied, networksFile) {
		columns = oldAuditColumns
	}
	if err := c.query(func(r Row) error { return r.Scan(&verifier) }, identityQuery, metaAuditVerifier); err != nil {
		return "", err
	}
	return verifier, c.query(func(r Row) error {
		a, err := scanAudit(r)
		if err != nil {
			return err
		}
		return f(a)
	}, `SELECT `+columns+` FROM audit ORDER BY seq`)
}

func errOrNil(is bool, err error) error {
	if is {
		return err
	}
	return nil
}
