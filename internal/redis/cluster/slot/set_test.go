package slot

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A Set does what a map of numbers does.
func TestSetAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(0, Count-1)
		var s, other Set
		want := map[int]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0, 1:
				n := slots.Draw(t, "n")
				s.Add(n)
				want[n] = true
			case 2:
				n := slots.Draw(t, "n")
				s.Del(n)
				delete(want, n)
			case 3:
				first := slots.Draw(t, "first")
				last := min(first+rapid.IntRange(-1, 200).Draw(t, "more"), Count-1)
				s.AddRange(first, last)
				for n := first; n <= last; n++ {
					want[n] = true
				}
			case 4:
				other = Set{}
				first := slots.Draw(t, "first")
				other.AddRange(first, min(first+70, Count-1))
				overlap := false
				for n := range want {
					overlap = overlap || other.Has(n)
				}
				if s.Overlaps(&other) != overlap {
					t.Fatalf("Overlaps is not %v", overlap)
				}
				if rapid.Bool().Draw(t, "add") {
					s.AddAll(&other)
					other.Each(func(n int) { want[n] = true })
				} else {
					s.DelAll(&other)
					other.Each(func(n int) { delete(want, n) })
				}
			}
		}
		var each, keys []int
		s.Each(func(n int) { each = append(each, n) })
		for n := range want {
			keys = append(keys, n)
			if !s.Has(n) {
				t.Fatalf("slot %d is missing", n)
			}
		}
		slices.Sort(keys)
		if !slices.Equal(each, keys) || s.Len() != len(keys) || s.Empty() != (len(keys) == 0) {
			t.Fatalf("Each %v, Len %d, Empty %v; want %v", each, s.Len(), s.Empty(), keys)
		}
		if back, err := ParseSet(s.String()); err != nil || back != s {
			t.Fatalf("%q was read as %q, %v", s.String(), back.String(), err)
		}
	})
}

func TestSetIsWrittenAsRanges(t *testing.T) {
	var s Set
	s.AddRange(0, 99)
	s.Add(105)
	s.AddRange(16382, 16383)
	if got := s.String(); got != "0-99,105,16382-16383" {
		t.Error(got)
	}
	s = Set{}
	if got := s.String(); got != "" {
		t.Error(got)
	}
	s.AddRange(0, Count-1)
	if got := s.String(); got != "0-16383" || s.Len() != Count {
		t.Error(got, s.Len())
	}
}

func TestParseSetRefusesWhatIsNone(t *testing.T) {
	for _, text := range []string{",", "1,", ",1", "1,,2", "-", "1-", "-1", "2-1", "16384", "1-16384", "00001-000002", " 1", "+1", "1 -2", "a", "99999999999999999999"} {
		if s, err := ParseSet(text); err == nil {
			t.Errorf("%q was read as %q", text, s.String())
		}
	}
	for _, text := range []string{"3,1", "1-5,2-3,5", "00001"} {
		if _, err := ParseSet(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseSet(f *testing.F) {
	for _, s := range []string{"", "0-99,105", "16383", "1-", ",", "5-4", "99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSet(text)
		if err != nil {
			if !s.Empty() {
				t.Fatalf("%q: an error, and a set", text)
			}
			return
		}
		if back, err := ParseSet(s.String()); err != nil || back != s {
			t.Fatalf("%q: %q was read as %q, %v", text, s.String(), back.String(), err)
		}
	})
}
