package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRecordOfProcessingIsPrinted(t *testing.T) {
	s, _ := houses(t)
	page := must(t, "", "doc", "processing", "--config="+s.config)
	for _, want := range []string{"# Record of processing", "| `receipts` |", "`audit.keep` (here: 180d)", "## To whom data are sent"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in the record", want)
		}
	}
	var record struct{ Activities []any }
	if err := json.Unmarshal([]byte(must(t, "", "doc", "processing", "--json", "--config="+s.config)), &record); err != nil || len(record.Activities) < 10 {
		t.Errorf("as JSON it has %d activities, %v", len(record.Activities), err)
	}
}
