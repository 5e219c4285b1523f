package config

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestRewriteReadsBackTheSame writes files of directives with good and bad
// values, which mutation of bytes seldom finds, changes some by Set, and
// rewrites the file.
func TestRewriteReadsBackTheSame(t *testing.T) {
	table := Default().Params()
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 7))
		pick := func() (*Param, string) {
			p := table[rng.IntN(len(table))]
			values := valuesFor(p)
			if len(values) == 0 {
				values = []string{p.Default}
			}
			return p, values[rng.IntN(len(values))]
		}
		c := inMemory(memFiles{})
		var file strings.Builder
		for range rng.IntN(40) {
			p, v := pick()
			// Titles may name other values; a later change makes them empty.
			if strings.Contains(v, "{") || p.primary() == "cluster-enabled" {
				continue
			}
			line := p.Name + " " + string(AppendRepr(nil, v))
			if p.Is(MultiArg) && rng.IntN(2) == 0 {
				line = p.Name + " " + v
			}
			// Whether the line is good is known once it is tried.
			if inMemory(memFiles{}).LoadString(line, "trial") != nil {
				line = "# " + line
			}
			file.WriteString(line + "\n")
		}
		// CR and NUL end lines and strings; they are tried elsewhere.
		text := strings.NewReplacer("\x00", "", "\r", "").Replace(file.String())
		if err := c.LoadString(text, "made up"); err != nil {
			t.Fatalf("seed %d: %v in\n%s", seed, err, text)
		}
		for range 10 {
			p, v := pick()
			if !strings.Contains(v, "{") {
				_, _ = c.SetIn(Circumstances{Local: true}, []KV{{p.Name, v}}) // refused or not: the values count
			}
		}
		rewritten := string(c.RewriteText([]byte(text)))
		again := inMemory(memFiles{})
		if err := again.LoadString(rewritten, "rewritten"); err != nil {
			t.Fatalf("seed %d: %v in\n%s", seed, err, rewritten)
		}
		if want, got := c.Get("*"), again.Get("*"); !slices.Equal(want, got) {
			for i := range want {
				if want[i] != got[i] {
					t.Errorf("seed %d: %s = %q became %q", seed, want[i].Name, want[i].Value, got[i].Value)
				}
			}
			t.Fatalf("file:\n%s\nrewritten:\n%s", text, rewritten)
		}
	}
}
