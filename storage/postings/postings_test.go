package postings

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// random returns n docs with some of a number of terms, most often the first ones.
func random(r *rand.Rand, n, terms int) []Doc {
	docs := make([]Doc, n)
	pos := int64(1000)
	for i := range docs {
		pos += 1 + r.Int64N(5)
		d := Doc{Pos: pos, Time: 1_700_000_000_000 + r.Int64N(1e6), Field: Field(1 + r.IntN(3)), Size: uint8(r.IntN(8))}
		if r.IntN(10) == 0 {
			d.Order = 1 + r.Int64N(1<<50)
		}
		for range r.IntN(20) {
			d.Terms = append(d.Terms, uint32(r.IntN(1+r.IntN(terms)))*2654435761)
		}
		slices.Sort(d.Terms)
		d.Terms = slices.Compact(d.Terms)
		docs[i] = d
	}
	return docs
}

// find returns the numbers of the docs with a term, as a search does.
func find(t *testing.T, b Block, term uint32) []uint32 {
	t.Helper()
	_, terms, err := Docs(b.Head)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Parts) > 0 {
		terms = b.Parts[PartOf(term, len(b.Parts))]
	}
	found, err := Find(nil, terms, term)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// decoded returns the docs of a block with their terms.
func decoded(t *testing.T, b Block) []Doc {
	t.Helper()
	s, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.postings {
		d := &s.Docs[uint32(p)]
		d.Terms = append(d.Terms, uint32(p>>32))
	}
	return s.Docs
}

func TestMergedSetsHaveTheDocsOfBoth(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 50 {
		docs := random(r, 200, 300)
		var a, b []Doc
		for i, d := range docs {
			switch r.IntN(3) {
			case 0:
				a = append(a, d)
			case 1:
				b = append(b, d)
			default:
				stale := d
				stale.Terms = []uint32{7}
				a, b = append(a, stale), append(b, docs[i])
			}
		}
		if got := decoded(t, Encode(Merge(NewSet(a), NewSet(b)))); !reflect.DeepEqual(got, docs) {
			t.Fatal("the merged set differs")
		}
	}
}

func TestSetsAreSplitByDocsAndByTerms(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ docs, terms, sets int }{
		{0, 0, 1}, {MaxDocs, 3, 1}, {MaxDocs + 1, 3, 2}, {8, MaxPostings / 8, 1}, {9, MaxPostings / 8, 2}, {2, MaxPostings + 1, 2},
	} {
		docs := random(r, c.docs, 1)
		for i := range docs {
			docs[i].Terms = nil
			for n := range c.terms {
				docs[i].Terms = append(docs[i].Terms, uint32(n*7))
			}
		}
		sets := NewSet(docs).Split()
		if len(sets) != c.sets {
			t.Errorf("%d docs of %d terms are split into %d sets, want %d", c.docs, c.terms, len(sets), c.sets)
		}
		n, terms := 0, 0
		for _, s := range sets {
			for i, d := range s.Docs {
				if d.Pos != docs[n+i].Pos {
					t.Fatalf("doc %d is at %d, want %d", n+i, d.Pos, docs[n+i].Pos)
				}
			}
			n, terms = n+len(s.Docs), terms+s.Postings()
		}
		if n != c.docs || terms != c.docs*c.terms {
			t.Errorf("the sets have %d docs with %d terms, want %d with %d", n, terms, c.docs, c.docs*c.terms)
		}
	}
}

func TestBlocksReturnWhatWasPutIn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 100, 2000, MaxDocs} {
		docs := random(r, n, 1+n*3)
		b := Encode(NewSet(docs))
		got := decoded(t, b)
		if len(got) != n || n > 0 && !reflect.DeepEqual(got, docs) {
			t.Fatalf("%d docs: what comes out differs", n)
		}
		for _, term := range []uint32{0, 2654435761, 7} {
			var want []uint32
			for i, d := range docs {
				if slices.Contains(d.Terms, term) {
					want = append(want, uint32(i))
				}
			}
			if found := find(t, b, term); !slices.Equal(found, want) {
				t.Errorf("%d docs: term %d is in %v, want %v", n, term, found, want)
			}
		}
	}
}

func TestRemovedDocsLeaveNoTerms(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 50, 3000} {
		docs := random(r, n, 1+n*3)
		b, gone := Encode(NewSet(docs)), make([]bool, len(docs))
		for i := range docs {
			if i%3 != 1 {
				gone[i] = true
				docs[i].Field, docs[i].Size, docs[i].Terms = Gone, 0, nil
			}
		}
		head, err := HeadWithout(b.Head, gone)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			if head != nil {
				t.Error("a block without docs is kept")
			}
			continue
		}
		b.Head = head
		for i := range b.Parts {
			if b.Parts[i], _, err = Without(b.Parts[i], gone); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(decoded(t, b), docs) {
			t.Errorf("%d docs: what is left differs", n)
		}
	}
}

func TestPartsCoverAllTerms(t *testing.T) {
	for n := 1; n <= MaxParts; n *= 2 {
		before := 0
		for _, term := range []uint32{0, 1, 1 << 20, 1 << 31, 1<<32 - 1} {
			part := PartOf(term, n)
			if part < before || part >= n {
				t.Errorf("term %d is in part %d of %d", term, part, n)
			}
			before = part
		}
		if before != n-1 {
			t.Errorf("the last part of %d is %d", n, before)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{0, 1, 30, 500} {
		b := Encode(NewSet(random(r, n, 100)))
		f.Add(b.Head, uint32(0))
		for _, p := range b.Parts {
			f.Add(p, uint32(2654435761))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, term uint32) {
		_, _, _ = Docs(raw)
		_, _ = Find(nil, raw, term)
		_, _ = HeadWithout(raw, []bool{true})
		_, _, _ = Without(raw, []bool{true})
		if s, err := Decode(Block{Head: raw}); err == nil && len(s.Docs) > MaxDocs {
			t.Errorf("%d docs", len(s.Docs))
		}
	})
}

func BenchmarkMerge(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	docs := random(r, MaxDocs, 20000)
	one, two := Encode(NewSet(docs[:MaxDocs/2])), Encode(NewSet(docs[MaxDocs/2:]))
	for b.Loop() {
		s, err := Decode(one)
		if err != nil {
			b.Fatal(err)
		}
		other, err := Decode(two)
		if err != nil {
			b.Fatal(err)
		}
		Encode(Merge(s, other))
	}
}
