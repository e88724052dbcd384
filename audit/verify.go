package audit

import (
	"encoding/json"
	"fmt"
	"strconv"

	"ebb/storage"
)

// Verifier checks the chain of an audit log, row by row.
type Verifier struct {
	last     storage.AuditRow
	known    map[int64]string // the hashes in the checkpoints, by row
	newest   int64            // the last row with a checkpoint
	bare     []span           // rows without a body
	prunedTo int64            // the last row whose body was removed, according to the log itself
	hidden   int64            // the last row whose networks were removed
	hiddenTo int64            // the same, according to the log itself
	Checked  int              // checkpoints that were compared
}

// span is a range of rows, both ends included.
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
	if hash, known := v.known[a.Seq]; known {
		if hash != a.Hash {
			return fmt.Errorf("row %d: its checkpoint has another hash: this row or one before was changed", a.Seq)
		}
		v.Checked++
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
	if v.newest > v.last.Seq {
		return v.last.Seq, fmt.Errorf("row %d is missing: there is a checkpoint of row %d", v.last.Seq+1, v.newest)
	}
	return v.last.Seq, nil
}
