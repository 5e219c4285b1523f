package intset

import (
	"bytes"
	"encoding/hex"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var numbers = rapid.OneOf(
	rapid.Int64Range(-20, 20),
	rapid.Int64(),
	rapid.SampledFrom([]int64{math.MinInt16, math.MinInt16 - 1, math.MaxInt16, math.MaxInt16 + 1,
		math.MinInt32, math.MinInt32 - 1, math.MaxInt32, math.MaxInt32 + 1, math.MinInt64, math.MaxInt64}),
)

func TestOperationsAgreeWithASortedSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		is, model := New(), []int64{}
		widest := 2
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				v := numbers.Draw(t, "v")
				pos, ok := slices.BinarySearch(model, v)
				var added bool
				is, added = Add(is, v)
				if added == ok {
					t.Fatalf("Add(%d): added %v, was there %v", v, added, ok)
				}
				if !ok {
					model = slices.Insert(model, pos, v)
					widest = max(widest, encodingOf(v))
				}
			},
			"remove": func(t *rapid.T) {
				v := numbers.Draw(t, "v")
				if len(model) > 0 && rapid.Bool().Draw(t, "known") {
					v = rapid.SampledFrom(model).Draw(t, "v")
				}
				pos, ok := slices.BinarySearch(model, v)
				var removed bool
				is, removed = Remove(is, v)
				if removed != ok {
					t.Fatalf("Remove(%d): removed %v, was there %v", v, removed, ok)
				}
				if ok {
					model = slices.Delete(model, pos, pos+1)
				}
			},
			"find": func(t *rapid.T) {
				v := numbers.Draw(t, "v")
				wantPos, want := slices.BinarySearch(model, v)
				if pos, ok := Find(is, v); pos != wantPos || ok != want || Contains(is, v) != want {
					t.Fatalf("Find(%d) = %d, %v; want %d, %v", v, pos, ok, wantPos, want)
				}
			},
			"": func(t *rapid.T) {
				got := []int64{}
				for i, v := range All(is) {
					got = append(got, v)
					if Get(is, i) != v {
						t.Fatalf("Get(%d) = %d, All gives %d", i, Get(is, i), v)
					}
				}
				if !slices.Equal(got, model) || Len(is) != len(model) || Encoding(is) != widest {
					t.Fatalf("got %v encoding %d, want %v encoding %d", got, Encoding(is), model, widest)
				}
				if err := Validate(is, true); (err == nil) != (len(model) > 0) {
					t.Fatalf("Validate with %d integers: %v", len(model), err)
				}
			},
		})
	})
}

func TestBytesAreThoseOfRedis(t *testing.T) {
	is := New()
	for _, v := range []int64{3, -1, 70000} {
		is, _ = Add(is, v)
	}
	want := "04000000" + "03000000" + "ffffffff" + "03000000" + "70110100"
	if got := hex.EncodeToString(is); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestValidateRefuses(t *testing.T) {
	var good []byte
	for i, v := range []int64{1, 2, 3} {
		if i == 0 {
			good = New()
		}
		good, _ = Add(good, v)
	}
	for n := range len(good) {
		if Validate(good[:n], false) == nil {
			t.Errorf("a set cut to %d bytes passes", n)
		}
	}
	for name, change := range map[string]func(is []byte){
		"encoding":  func(is []byte) { is[0] = 3 },
		"count":     func(is []byte) { is[4]++ },
		"huge":      func(is []byte) { is[7] = 0xFF },
		"duplicate": func(is []byte) { is[10] = 1 },
		"order":     func(is []byte) { is[10] = 9 },
	} {
		is := bytes.Clone(good)
		change(is)
		if Validate(is, true) == nil {
			t.Errorf("%s: a damaged set passes", name)
		}
	}
}

func FuzzIntsetValidate(f *testing.F) {
	is, _ := Add(New(), 5)
	f.Add(is)
	f.Fuzz(func(t *testing.T, is []byte) {
		deep := Validate(is, true) == nil
		if Validate(is, false) != nil {
			if deep {
				t.Fatal("deep accepts what shallow refuses")
			}
			return
		}
		is = bytes.Clone(is)
		for i, v := range All(is) {
			if pos, ok := Find(is, v); deep && (!ok || pos != i) {
				t.Fatalf("Find(%d) = %d, %v at %d", v, pos, ok, i)
			}
		}
		is, _ = Add(is, math.MaxInt64)
		is, _ = Add(is, 0)
		is, _ = Remove(is, 0)
		if err := Validate(is, true); deep && err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	is := New()
	for i := range int64(512) {
		is, _ = Add(is, i*3)
	}
	var i int64
	for b.Loop() {
		i = (i + 7) % 512
		if !Contains(is, i*3) {
			b.Fatal("not found")
		}
	}
}
