package command

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"

	"holdfast/internal/redis/resp"
)

// bothProtocols runs the test in RESP2 and in RESP3 against genuine Redis.
func bothProtocols(t *testing.T, test func(t *testing.T, g *genuine, te *testEngine)) {
	g := startGenuine(t)
	te := newTestEngine(t, 1)
	for _, proto := range []int{2, 3} {
		g.conn.do("HELLO", strconv.Itoa(proto))
		te.cl.Proto = proto
		t.Run("RESP"+strconv.Itoa(proto), func(t *testing.T) { test(t, g, te) })
	}
}

// describe is a row of COMMAND INFO as text, with the subcommands in the order
// of their names: that of Redis is the order of a hash table.
func describe(v resp.Value) string {
	if len(v.Elems) != 10 {
		return canonical(v, "")
	}
	var parts []string
	for _, e := range v.Elems[:9] {
		parts = append(parts, canonical(e, ""))
	}
	var subs []string
	for _, e := range v.Elems[9].Elems {
		subs = append(subs, "\n    "+describe(e))
	}
	slices.Sort(subs)
	return strings.Join(parts, " ") + " " + string(v.Elems[9].Kind) + strings.Join(subs, "")
}

func TestCommandInfoIsThatOfGenuineRedis(t *testing.T) {
	bothProtocols(t, func(t *testing.T, g *genuine, te *testEngine) {
		for _, s := range te.Table.All {
			if s.Name == "select" {
				continue // the tests' own
			}
			want := g.conn.do("COMMAND", "INFO", s.Name).Elems[0]
			got := te.value(te.do("COMMAND", "INFO", s.Name)).Elems[0]
			if describe(got) != describe(want) {
				t.Errorf("%s\n got %s\nwant %s", s.Name, describe(got), describe(want))
			}
			for _, sub := range s.Sub {
				want := g.conn.do("COMMAND", "INFO", sub.Full).Elems[0]
				got := te.value(te.do("COMMAND", "INFO", sub.Full)).Elems[0]
				if describe(got) != describe(want) {
					t.Errorf("%s\n got %s\nwant %s", sub.Full, describe(got), describe(want))
				}
			}
		}
	})
}

// withoutSummary drops the summaries, which are our own.
func withoutSummary(v resp.Value) resp.Value {
	var out []resp.Value
	for i := 0; i < len(v.Elems); i++ {
		if string(v.Elems[i].Str) == "summary" && i%2 == 0 {
			i++
			continue
		}
		out = append(out, withoutSummary(v.Elems[i]))
	}
	v.Elems = out
	return v
}

// sorted sorts the pairs under "subcommands".
func sorted(v resp.Value) resp.Value {
	for i := 0; i+1 < len(v.Elems); i += 2 {
		if string(v.Elems[i].Str) != "subcommands" {
			continue
		}
		pairs := slices.Collect(slices.Chunk(v.Elems[i+1].Elems, 2))
		slices.SortFunc(pairs, func(a, b []resp.Value) int { return bytes.Compare(a[0].Str, b[0].Str) })
		v.Elems[i+1].Elems = slices.Concat(pairs...)
	}
	return v
}

func TestCommandDocsAreThoseOfGenuineRedis(t *testing.T) {
	bothProtocols(t, func(t *testing.T, g *genuine, te *testEngine) {
		for _, s := range te.Table.All {
			want := g.conn.do("COMMAND", "DOCS", s.Name)
			got := te.value(te.do("COMMAND", "DOCS", s.Name))
			if len(got.Elems) != 2 || len(want.Elems) != 2 {
				t.Errorf("%s: %d and %d elements", s.Name, len(got.Elems), len(want.Elems))
				continue
			}
			w, g := canonical(sorted(withoutSummary(want.Elems[1])), ""), canonical(sorted(withoutSummary(got.Elems[1])), "")
			if g != w {
				t.Errorf("%s\n got %s\nwant %s", s.Name, g, w)
			}
		}
	})
}

func TestCommandDocsHaveASummaryForEveryCommand(t *testing.T) {
	check := func(s *Spec) {
		if docs()[s.Full].Summary == "" {
			t.Errorf("%s: no summary", s.Full)
		}
	}
	for _, s := range NewTable(DataFamilies()...).All {
		check(s)
		for _, sub := range s.Sub {
			check(sub)
		}
	}
}

func TestCommandAnswersAsGenuineRedis(t *testing.T) {
	bothProtocols(t, func(t *testing.T, g *genuine, te *testEngine) {
		for _, line := range []string{
			"COMMAND FOO",
			"COMMAND HELP",
			"COMMAND COUNT x",
			"COMMAND INFO nosuch GET strlen|x",
			"COMMAND DOCS nosuch",
			"COMMAND LIST foo",
			"COMMAND LIST FILTERBY",
			"COMMAND LIST FILTERBY ACLCAT",
			"COMMAND LIST FILTERBY foo x",
			"COMMAND LIST FILTERBY ACLCAT nosuch",
			"COMMAND LIST FILTERBY ACLCAT HASH",
			"COMMAND LIST FILTERBY ACLCAT bitmap",
			"COMMAND LIST FILTERBY ACLCAT transaction",
			"COMMAND LIST FILTERBY MODULE nosuch",
			"COMMAND LIST FILTERBY PATTERN Z*",
			"COMMAND LIST FILTERBY PATTERN command|*",
			"COMMAND GETKEYS GET",
			"COMMAND GETKEYS GET a",
			"COMMAND GETKEYS GET a b c",
			"COMMAND GETKEYS nosuch a",
			"COMMAND GETKEYS object nosuch a",
			"COMMAND GETKEYS object encoding a",
			"COMMAND GETKEYS PUBLISH a b",
			"COMMAND GETKEYS SPUBLISH a b",
			"COMMAND GETKEYS MSET a b c d",
			"COMMAND GETKEYS MSET a b c",
			"COMMAND GETKEYS ZUNION 0 a",
			"COMMAND GETKEYS ZUNION x a",
			"COMMAND GETKEYS ZUNION 3 a b",
			"COMMAND GETKEYS ZUNION 2 a b WITHSCORES",
			"COMMAND GETKEYS BLPOP a b c 0",
			"COMMAND GETKEYS DBSIZE x",
			"COMMAND GETKEYSANDFLAGS SET a b",
			"COMMAND GETKEYSANDFLAGS SET a b GET",
			"COMMAND GETKEYSANDFLAGS SET a b EX 10 GET",
			"COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0",
			"COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0 SET u8 0 1",
			"COMMAND GETKEYSANDFLAGS BITFIELD a INCRBY u8 0 1",
			"COMMAND GETKEYSANDFLAGS SORT a BY w GET x LIMIT 0 1 STORE b",
			"COMMAND GETKEYSANDFLAGS SORT_RO a BY w",
			"COMMAND GETKEYSANDFLAGS LMPOP 2 a b LEFT",
			"COMMAND GETKEYSANDFLAGS BZMPOP 0 1 a MIN",
			"COMMAND GETKEYSANDFLAGS ZUNIONSTORE d 2 a b",
			"COMMAND GETKEYSANDFLAGS ZRANGESTORE d s 0 -1",
			"COMMAND GETKEYSANDFLAGS BLMOVE a b LEFT LEFT 0",
			"COMMAND GETKEYSANDFLAGS BITOP AND d a b",
			"COMMAND GETKEYSANDFLAGS SINTERCARD 2 a b LIMIT 1",
			"COMMAND GETKEYSANDFLAGS COPY a b",
			"COMMAND GETKEYSANDFLAGS WATCH a b",
		} {
			args := strings.Fields(line)
			rule := ""
			if strings.HasPrefix(line, "COMMAND LIST") {
				rule = "unordered"
			}
			if want, got := g.conn.do(args...), te.value(te.do(args...)); args[1] == "INFO" {
				for i := range want.Elems {
					if describe(got.Elems[i]) != describe(want.Elems[i]) {
						t.Errorf("%s\n got %s\nwant %s", line, describe(got.Elems[i]), describe(want.Elems[i]))
					}
				}
			} else if canonical(got, rule) != canonical(want, rule) {
				t.Errorf("%s\n got %s\nwant %s", line, canonical(got, rule), canonical(want, rule))
			}
		}
	})
}

func TestCommandListsAllThereIs(t *testing.T) {
	te := newTestEngine(t, 1)
	n := len(te.Table.All)
	subs := 0
	for _, s := range te.Table.All {
		subs += len(s.Sub)
	}
	te.want(":"+strconv.Itoa(n), "COMMAND", "COUNT")
	for want, args := range map[int][]string{
		n:        {"COMMAND"},
		n + subs: {"COMMAND", "LIST"},
		2 * n:    {"COMMAND", "DOCS"},
	} {
		if got := len(te.value(te.do(args...)).Elems); got != want {
			t.Errorf("%v: %d elements, want %d", args, got, want)
		}
	}
	if got := len(te.value(te.do("COMMAND", "INFO")).Elems); got != n {
		t.Errorf("COMMAND INFO: %d elements, want %d", got, n)
	}
}
