package deletions

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Line is a line of an export of receipts.
type Line struct {
	Note string `json:"ebb_deletion_receipt"`
}

// maxLine bounds a line of an export, in bytes.
const maxLine = 64 << 10

// Verified is the result of Verify.
type Verified struct {
	Receipts      int   `json:"receipts"`
	First, Last   int64 // numbers
	Events, Media int64
	Missing       int64 `json:"missing"` // receipts that are missing between the first and the last
}

// Verify checks an export of receipts, a Line for each, in the order of their numbers: the signatures, by the public
// parts of keys, and that each receipt has the hash of the one before, if that is in the export.
func Verify(r io.Reader, keys []string) (v Verified, err error) {
	var verifiers []note.Verifier
	for _, key := range keys {
		k, err := note.NewVerifier(strings.TrimSpace(key))
		if err != nil {
			return v, fmt.Errorf("the key %q cannot be read: %w", key, err)
		}
		verifiers = append(verifiers, k)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	before := ""
	for n := 1; lines.Scan(); n++ {
		var line Line
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Note == "" {
			return v, fmt.Errorf("line %d is not a receipt", n)
		}
		if err := v.add(line.Note, before, note.VerifierList(verifiers...)); err != nil {
			return v, fmt.Errorf("line %d: %w", n, err)
		}
		before = digest([]byte(line.Note))
	}
	return v, lines.Err()
}

// add checks a receipt. before is the digest of the receipt in the line before.
func (v *Verified) add(text, before string, keys note.Verifiers) error {
	signed, err := note.Open([]byte(text), keys)
	if err != nil {
		return fmt.Errorf("the signature is not valid: %w", err)
	}
	fields := map[string]string{}
	lines := strings.Split(strings.TrimSuffix(signed.Text, "\n"), "\n")
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		fields[name] = value
	}
	number, err1 := strconv.ParseInt(fields["number"], 10, 64)
	events, err2 := strconv.ParseInt(fields["events"], 10, 64)
	media, err3 := strconv.ParseInt(fields["media"], 10, 64)
	switch {
	case lines[0] != title || errors.Join(err1, err2, err3) != nil:
		return errors.New("this is not a receipt")
	case v.Receipts > 0 && number <= v.Last:
		return fmt.Errorf("receipt %d follows receipt %d", number, v.Last)
	case v.Receipts > 0 && number == v.Last+1 && fields["previous"] != before:
		return fmt.Errorf("receipt %d does not follow the receipt before it: one of them was replaced", number)
	}
	if v.Receipts == 0 {
		v.First = number
	} else {
		v.Missing += number - v.Last - 1
	}
	v.Receipts, v.Last, v.Events, v.Media = v.Receipts+1, number, v.Events+events, v.Media+media
	return nil
}
