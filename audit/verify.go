package audit

import (
	"encoding/json"
	"fmt"
	"strconv"

	"ebb/storage"
)

// Verifier checks a chain, row by row.
type Verifier struct {
	last     storage.AuditRow
	known    map[int64]string // hashes of checkpoints
	newest   int64            // of the checkpoints
	bare     []span           // rows without a body
	prunedTo int64            // up to which row bodies were removed
	Checked  int              // checkpoints that were compared
}

// span is a range of rows.
type span struct{ from, to int64 }

// NewVerifier returns a Verifier that compares the chain with checkpoints.
func NewVerifier(checkpoints []Checkpoint) (*Verifier, error) {
	v := &Verifier{known: map[int64]string{}}
	for _, c := range checkpoints {
		if h, twice := v.known[c.Seq]; twice && h != c.Hash {
			return nil, fmt.Errorf("two checkpoints of row %d have different hashes: the chain was written anew between them", c.Seq)
		}
		v.known[c.Seq] = c.Hash
		v.newest = max(v.newest, c.Seq)
	}
	return v, nil
}

// Row checks the next row. The error names the first row that is wrong.
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
	if hash, known := v.known[a.Seq]; known {
		if hash != a.Hash {
			return fmt.Errorf("row %d: its checkpoint has another hash: this row or one before was changed", a.Seq)
		}
		v.Checked++
	}
	if a.Body == "" {
		v.noteBare(a.Seq)
	} else if a.Kind == KindPruned {
		v.notePruned(a.Body)
	}
	v.last = a
	return nil
}

func (v *Verifier) noteBare(seq int64) {
	if n := len(v.bare); n > 0 && v.bare[n-1].to == seq-1 {
		v.bare[n-1].to = seq
		return
	}
	v.bare = append(v.bare, span{seq, seq})
}

func (v *Verifier) notePruned(body string) {
	var b map[string]string
	if json.Unmarshal([]byte(body), &b) == nil {
		upTo, _ := strconv.ParseInt(b["up_to"], 10, 64)
		v.prunedTo = max(v.prunedTo, upTo)
	}
}

// End checks what only the end of the chain shows. It returns the number of rows.
func (v *Verifier) End() (rows int64, err error) {
	for _, s := range v.bare {
		if s.to > v.prunedTo {
			return v.last.Seq, fmt.Errorf("row %d: its body was removed, and no record says so", max(s.from, v.prunedTo+1))
		}
	}
	if v.newest > v.last.Seq {
		return v.last.Seq, fmt.Errorf("row %d is missing: there is a checkpoint of row %d", v.last.Seq+1, v.newest)
	}
	return v.last.Seq, nil
}
