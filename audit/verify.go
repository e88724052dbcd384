package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"ebb/storage"
)

// Verifier checks the chain of an audit log, row by row.
type Verifier struct {
	// Restores are the restores from a backup that the log records, in order.
	Restores []Restore
	Checked  int // checkpoints that were compared

	last        storage.AuditRow
	checkpoints []Checkpoint      // as the sink received them
	ofRow       map[int64][]int   // the checkpoints of a row, as indices
	confirmed   map[RecordRef]int // the first checkpoint that names a restore
	bare        []span            // rows without a body
	prunedTo    int64             // the last row whose body was removed, according to the log itself
	hidden      int64             // the last row whose networks were removed
	hiddenTo    int64             // the same, according to the log itself
}

// Restore is a restore from a backup. The rows that were added between the backup and the restore are lost, and their
// numbers were used again.
type Restore struct {
	Row  int64
	TS   int64 // ms
	hash string

	Lost   int   // checkpoints of lost rows
	LostTo int64 // the last lost row with a checkpoint
}

// span is a range of rows, both ends included.
type span struct{ from, to int64 }

// NewVerifier returns a Verifier that compares the chain with checkpoints, which are in the order in which the sink
// received them.
func NewVerifier(checkpoints []Checkpoint) (*Verifier, error) {
	v := &Verifier{checkpoints: checkpoints, ofRow: map[int64][]int{}, confirmed: map[RecordRef]int{}}
	for i, c := range checkpoints {
		for _, j := range v.ofRow[c.Seq] {
			if o := checkpoints[j]; o.Hash != c.Hash && o.Restored == c.Restored {
				return nil, fmt.Errorf("two checkpoints of row %d have different hashes: the chain was written anew between them", c.Seq)
			}
		}
		v.ofRow[c.Seq] = append(v.ofRow[c.Seq], i)
		if _, known := v.confirmed[c.Restored]; !known && c.Restored != (RecordRef{}) {
			v.confirmed[c.Restored] = i
		}
	}
	return v, nil
}

// Row checks the next row of the log. Its error names the row that is wrong or missing.
func (v *Verifier) Row(a storage.AuditRow) error {
	if a.Seq != v.last.Seq+1 {
		return fmt.Errorf("row %d is missing", v.last.Seq+1)
	}
	if a.Body != "" && bodyHash(a) != a.BodyHash {
		return fmt.Errorf("row %d: its body was changed", a.Seq)
	}
	if chainHash(v.last.Hash, a) != a.Hash {
		return fmt.Errorf("row %d: it does not follow from the row before: one of them was changed", a.Seq)
	}
	if a.Kind == KindRestored {
		v.Restores = append(v.Restores, Restore{Row: a.Seq, TS: a.TS, hash: a.Hash})
	}
	for _, i := range v.ofRow[a.Seq] {
		if v.checkpoints[i].Hash == a.Hash {
			v.Checked++
		} else if !v.lost(i) {
			return v.unexplained("row %d: its checkpoint has another hash: this row or one before was changed", a.Seq)
		}
	}
	if err := v.networks(a); err != nil {
		return err
	}
	switch {
	case a.Body == "":
		v.noteBare(a.Seq)
	case a.Kind == KindPruned:
		v.prunedTo = max(v.prunedTo, upTo(a.Body))
	case a.Kind == KindNetworksPruned:
		v.hiddenTo = max(v.hiddenTo, upTo(a.Body))
	}
	v.last = a
	return nil
}

// lost reports whether a checkpoint is of a row that was lost when the database was restored from a backup. The sink
// received such a checkpoint before the first one that names the restore.
func (v *Verifier) lost(checkpoint int) bool {
	seq := v.checkpoints[checkpoint].Seq
	for i := range v.Restores {
		r := &v.Restores[i]
		if first, known := v.confirmed[RecordRef{r.Row, r.hash}]; known && checkpoint < first && seq >= r.Row {
			r.Lost, r.LostTo = r.Lost+1, max(r.LostTo, seq)
			return true
		}
	}
	return false
}

// unexplained returns an error. If the log records a restore that no checkpoint confirms, the error says so, because
// that may be why.
func (v *Verifier) unexplained(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	for _, r := range slices.Backward(v.Restores) {
		if _, known := v.confirmed[RecordRef{r.Row, r.hash}]; !known {
			return fmt.Errorf("%s. Row %d says that the database was restored from a backup, which would explain it, but no checkpoint confirms that. "+
				"The server sends one when it starts: verify again with the checkpoints from after that", text, r.Row)
		}
	}
	return fmt.Errorf("%s", text)
}

// networks compares the networks of a row with their hash in its body.
func (v *Verifier) networks(a storage.AuditRow) error {
	var body map[string]string
	if a.Body != "" {
		if err := json.Unmarshal([]byte(a.Body), &body); err != nil {
			return fmt.Errorf("row %d: its body is not JSON", a.Seq)
		}
	}
	switch hash := body[networksMember]; {
	case a.Networks == "" && hash != "":
		v.hidden = a.Seq
	case a.Networks != "" && networksHash(a) != hash:
		return fmt.Errorf("row %d: its networks were changed", a.Seq)
	}
	return nil
}

func (v *Verifier) noteBare(seq int64) {
	if n := len(v.bare); n > 0 && v.bare[n-1].to == seq-1 {
		v.bare[n-1].to = seq
		return
	}
	v.bare = append(v.bare, span{seq, seq})
}

// upTo returns the last row of which something was removed, from the body of the record that tells it.
func upTo(body string) int64 {
	var b map[string]string
	if json.Unmarshal([]byte(body), &b) != nil {
		return 0
	}
	row, _ := strconv.ParseInt(b["up_to"], 10, 64)
	return row
}

// End is called after the last row. It makes the checks for which the whole chain must be known, and returns the number
// of rows.
func (v *Verifier) End() (rows int64, err error) {
	for _, s := range v.bare {
		if s.to > v.prunedTo {
			return v.last.Seq, fmt.Errorf("row %d: its body was removed, and no record says so", max(s.from, v.prunedTo+1))
		}
	}
	if v.hidden > v.hiddenTo {
		return v.last.Seq, fmt.Errorf("row %d: its networks were removed, and no record says so", v.hidden)
	}
	for i, c := range v.checkpoints {
		if c.Seq > v.last.Seq && !v.lost(i) {
			return v.last.Seq, v.unexplained("row %d is missing: there is a checkpoint of row %d", v.last.Seq+1, c.Seq)
		}
	}
	return v.last.Seq, nil
}
