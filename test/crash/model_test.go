package crash

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"holdfast/test/proc"
)

// The data of one writer. Every kind of key appears; sizes cross the limits at
// which the server changes the encoding, and stay bounded.
const (
	kinds       = 8
	plainKeys   = 50
	volatiles   = 20
	hashFields  = 300
	zsetMembers = 200
	setMembers  = 100
	listKept    = 200
	farFuture   = 4_000_000_000_000 // ms; a year after 2090
)

// model is what one writer's keys hold after its first n writes.
type model struct {
	prefix string
	n      int64
	plain  [plainKeys]int64
	vol    [volatiles]int64
	count  int64
	list   []int64 // head first
	hash   map[int64]int64
	zset   map[int64]int64
	set    map[int64]bool
	text   string
}

func newModel(prefix string) *model {
	return &model{prefix: prefix, hash: map[int64]int64{}, zset: map[int64]int64{}, set: map[int64]bool{}}
}

func (m *model) clone() *model {
	c := *m
	c.list = slices.Clone(m.list)
	c.hash, c.zset, c.set = maps.Clone(m.hash), maps.Clone(m.zset), maps.Clone(m.set)
	return &c
}

// request is the n-th write, n from 1.
func request(prefix string, n int64) []string {
	num := strconv.FormatInt(n, 10)
	j := n / kinds
	switch n % kinds {
	case 0:
		return []string{"SET", fmt.Sprintf("%ss%d", prefix, j%plainKeys), num}
	case 1:
		return []string{"INCR", prefix + "count"}
	case 2:
		if j%64 == 63 {
			return []string{"LTRIM", prefix + "list", "0", strconv.Itoa(listKept - 1)}
		}
		return []string{"LPUSH", prefix + "list", num}
	case 3:
		return []string{"HSET", prefix + "hash", strconv.FormatInt(j%hashFields, 10), num}
	case 4:
		return []string{"ZADD", prefix + "zset", num, strconv.FormatInt(j%zsetMembers, 10)}
	case 5:
		if j%2 == 0 {
			return []string{"SADD", prefix + "set", strconv.FormatInt(j%setMembers, 10)}
		}
		return []string{"SREM", prefix + "set", strconv.FormatInt(j*7%setMembers, 10)}
	case 6:
		if j%40 == 39 {
			return []string{"DEL", prefix + "text"}
		}
		return []string{"APPEND", prefix + "text", "x" + num}
	}
	return []string{"SET", fmt.Sprintf("%sv%d", prefix, j%volatiles), num, "PXAT", strconv.FormatInt(farFuture+n, 10)}
}

// step applies write n+1.
func (m *model) step() {
	m.n++
	n, j := m.n, m.n/kinds
	switch n % kinds {
	case 0:
		m.plain[j%plainKeys] = n
	case 1:
		m.count++
	case 2:
		if j%64 == 63 {
			m.list = m.list[:min(len(m.list), listKept)]
		} else {
			m.list = slices.Insert(m.list, 0, n)
		}
	case 3:
		m.hash[j%hashFields] = n
	case 4:
		m.zset[j%zsetMembers] = n
	case 5:
		if j%2 == 0 {
			m.set[j%setMembers] = true
		} else {
			delete(m.set, j*7%setMembers)
		}
	case 6:
		if j%40 == 39 {
			m.text = ""
		} else {
			m.text += "x" + strconv.FormatInt(n, 10)
		}
	case 7:
		m.vol[j%volatiles] = n
	}
}

// keys is how many keys the writer has.
func (m *model) keys() (n int64) {
	for _, v := range m.plain {
		n += b2i(v != 0)
	}
	for _, v := range m.vol {
		n += b2i(v != 0)
	}
	return n + b2i(m.count > 0) + b2i(len(m.list) > 0) + b2i(len(m.hash) > 0) + b2i(len(m.zset) > 0) + b2i(len(m.set) > 0) + b2i(m.text != "")
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// facts is the data in comparable form, one line per key.
func (m *model) facts() map[string]string {
	f := map[string]string{}
	for i, v := range m.plain {
		if v != 0 {
			f["s"+strconv.Itoa(i)] = strconv.FormatInt(v, 10)
		}
	}
	for i, v := range m.vol {
		if v != 0 {
			f["v"+strconv.Itoa(i)] = fmt.Sprintf("%d until %d", v, farFuture+v)
		}
	}
	put := func(key string, parts []string) {
		if len(parts) > 0 {
			f[key] = strings.Join(parts, " ")
		}
	}
	if m.count > 0 {
		f["count"] = strconv.FormatInt(m.count, 10)
	}
	var parts []string
	for _, v := range m.list {
		parts = append(parts, strconv.FormatInt(v, 10))
	}
	put("list", parts)
	put("hash", pairs(m.hash))
	put("zset", pairs(m.zset))
	parts = nil
	for k := range m.set {
		parts = append(parts, strconv.FormatInt(k, 10))
	}
	slices.Sort(parts)
	put("set", parts)
	if m.text != "" {
		f["text"] = m.text
	}
	return f
}

func pairs(m map[int64]int64) []string {
	var out []string
	for k, v := range m {
		out = append(out, fmt.Sprintf("%d=%d", k, v))
	}
	slices.Sort(out)
	return out
}

// readFacts reads the same from a server; last is the highest number of a write
// that shows in it.
func readFacts(c *proc.Conn, prefix string) (f map[string]string, last int64, err error) {
	f = map[string]string{}
	see := func(s string) {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			last = max(last, n)
		}
	}
	ask := func(args ...string) proc.Value {
		if err != nil {
			return proc.Value{}
		}
		var v proc.Value
		v, err = c.Must(args...)
		return v
	}
	for i := range plainKeys {
		if v := ask("GET", fmt.Sprintf("%ss%d", prefix, i)); err == nil && !v.Null {
			f["s"+strconv.Itoa(i)] = v.Str
			see(v.Str)
		}
	}
	for i := range volatiles {
		key := fmt.Sprintf("%sv%d", prefix, i)
		if v := ask("GET", key); err == nil && !v.Null {
			f["v"+strconv.Itoa(i)] = v.Str + " until " + ask("PEXPIRETIME", key).Text()
			see(v.Str)
		}
	}
	for _, key := range []string{"count", "text"} {
		if v := ask("GET", prefix+key); err == nil && !v.Null {
			f[key] = v.Str
		}
	}
	list := texts(ask("LRANGE", prefix+"list", "0", "-1"))
	if len(list) > 0 {
		see(list[0])
		f["list"] = strings.Join(list, " ")
	}
	put := func(key string, parts []string) {
		slices.Sort(parts)
		if len(parts) > 0 {
			f[key] = strings.Join(parts, " ")
		}
	}
	put("hash", paired(ask("HGETALL", prefix+"hash"), see))
	put("zset", paired(ask("ZRANGE", prefix+"zset", "0", "-1", "WITHSCORES"), see))
	put("set", texts(ask("SMEMBERS", prefix+"set")))
	return f, last, err
}

func texts(v proc.Value) (out []string) {
	for _, e := range v.List {
		out = append(out, e.Text())
	}
	return out
}

func paired(v proc.Value, see func(string)) (out []string) {
	for i := 0; i+1 < len(v.List); i += 2 {
		out = append(out, v.List[i].Text()+"="+v.List[i+1].Text())
		see(v.List[i+1].Text())
	}
	return out
}

// difference names up to five keys in which the two differ.
func difference(want, got map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(union(want, got))) {
		if want[k] != got[k] {
			out = append(out, fmt.Sprintf("%s: want %s, got %s", k, shorten(want[k]), shorten(got[k])))
		}
	}
	if len(out) > 5 {
		out = append(out[:5], fmt.Sprintf("and %d more", len(out)-5))
	}
	return strings.Join(out, "\n  ")
}

func union(a, b map[string]string) map[string]string {
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}

func shorten(s string) string {
	if s == "" {
		return "nothing"
	}
	if len(s) > 160 {
		return fmt.Sprintf("%s … %s (%d bytes)", s[:80], s[len(s)-40:], len(s))
	}
	return s
}

// findPrefix finds the k for which the server holds exactly the first k writes,
// from the model of the last start on, and returns the model of k. Some writes
// change nothing, so of several such k it takes the one nearest to acked.
func findPrefix(c *proc.Conn, m *model, acked int64) (*model, error) {
	got, last, err := readFacts(c, m.prefix)
	if err != nil {
		return nil, err
	}
	at := m.clone()
	for at.n < last {
		at.step()
	}
	// Some kinds of writes leave no number, so a few more may be there.
	first := difference(at.facts(), got)
	for i := 0; ; i++ {
		d := difference(at.facts(), got)
		if d == "" {
			return extend(at, got, acked), nil
		}
		if i == kinds {
			return nil, fmt.Errorf("writer %q: the data is no prefix of its writes; nearest %d writes:\n  %s", m.prefix, last, first)
		}
		at.step()
	}
}

// extend moves on over writes that change nothing, up to acked.
func extend(at *model, got map[string]string, acked int64) *model {
	for at.n < acked {
		next := at.clone()
		next.step()
		if difference(next.facts(), got) != "" {
			break
		}
		at = next
	}
	return at
}
