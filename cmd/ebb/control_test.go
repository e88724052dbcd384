package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"ebb/adminapi"
)

type listedItem struct {
	Name string            `json:"name"`
	More map[string]string `json:"more,omitempty"`
}

// printed prints a list that arrives in pages of two items. The call after the given number of pages fails.
func printed(t *testing.T, items []listedItem, asJSON bool, pages int) (string, error) {
	t.Helper()
	var out bytes.Buffer
	list := listWriter[listedItem]{w: bufio.NewWriter(&out), json: asJSON, line: func(w io.Writer, v listedItem) { fmt.Fprintln(w, v.Name) }}
	err := list.print(t.Context(), func(_ context.Context, _ string, args, result any) error {
		if pages--; pages < 0 {
			return errors.New("the server is gone")
		}
		after := args.(adminapi.ListArgs).After
		from := slices.IndexFunc(items, func(v listedItem) bool { return v.Name == after }) + 1
		page := result.(*adminapi.Page[listedItem])
		page.Items = items[from:min(from+2, len(items))]
		if from+2 < len(items) {
			page.Next = page.Items[1].Name
		}
		return nil
	}, "item list")
	return out.String(), err
}

func TestPagesOfAListArePrintedAsOneList(t *testing.T) {
	items := []listedItem{}
	for i := range 6 {
		var whole bytes.Buffer
		inv := invocation{stdout: &whole, json: true}
		if err := inv.print(items, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := printed(t, items, true, 10); err != nil || got != whole.String() {
			t.Errorf("%d items are printed as\n%s\nand not as\n%s\n%v", i, got, &whole, err)
		}
		items = append(items, listedItem{Name: fmt.Sprint("<", i, ">"), More: map[string]string{"a": "b"}})
	}
	if got, err := printed(t, items, false, 10); err != nil || got != "<0>\n<1>\n<2>\n<3>\n<4>\n<5>\n" {
		t.Errorf("the lines are %q, %v", got, err)
	}
}

func TestAnIncompleteListIsNotValidJSON(t *testing.T) {
	items := []listedItem{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	got, err := printed(t, items, true, 1)
	if err == nil || json.Valid([]byte(got)) {
		t.Errorf("printed %q, %v", got, err)
	}
	if got, err := printed(t, items, true, 0); err == nil || got != "" {
		t.Errorf("without a page it printed %q, %v", got, err)
	}
}
