package keyspace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"holdfast/internal/redis/cluster/slot"
	"holdfast/internal/redis/rdb"
)

// applier executes the commands of a snapshot of slots on another keyspace.
type applier struct {
	t        tester
	db       *DB
	slots    *slot.Set
	commands int
	largest  int // most bytes of values in one command
	last     []byte
	wide     bool // commands may be as large as they like
}

func (a *applier) Command(args ...[]byte) {
	a.t.Helper()
	key := args[1]
	if !a.slots.Has(slot.Of(key)) {
		a.t.Fatalf("%s of key %q, whose slot is %d", args[0], key, slot.Of(key))
	}
	a.commands++
	size := 0
	for _, v := range args[2:] {
		size += len(v)
	}
	a.largest = max(a.largest, size)
	if size > 66<<10 && len(args) > 4 && !a.wide && string(args[0]) != "RESTORE" {
		a.t.Fatalf("%s with %d bytes of values in %d arguments", args[0], size, len(args)-2)
	}
	a.execute(string(args[0]), key, args[2:])
	a.last = append(a.last[:0], key...)
}

func (a *applier) execute(name string, key []byte, args [][]byte) {
	a.t.Helper()
	r, found := a.db.Find(key)
	// Commands for one key follow each other, and the first makes an end of what
	// was there: nothing, in a keyspace that is empty at the beginning.
	first := name == "RESTORE" || name == "DEL" || name == "SET"
	if first && found {
		a.t.Fatalf("%s of key %q, which came before", name, key)
	}
	if !first && string(a.last) != string(key) {
		a.t.Fatalf("%s of key %q in the middle of %q", name, key, a.last)
	}
	switch name {
	case "DEL":
	case "RESTORE":
		a.restore(key, args)
	case "SET":
		a.db.SetString(key, args[0], NoExpiry)
	case "SETRANGE":
		a.db.SetRange(key, int(a.number(args[0])), args[1])
	case "PEXPIREAT":
		a.db.SetExpire(key, a.number(args[0]))
	case "RPUSH":
		if !found {
			a.db.NewList(key)
			r, _ = a.db.Find(key)
		}
		l := a.db.List(r)
		for _, v := range args {
			l.PushTail(v)
		}
	case "SADD":
		if !found {
			a.db.NewSet(key)
			r, _ = a.db.Find(key)
		}
		s := a.db.Set(r)
		for _, v := range args {
			s.Add(v)
		}
	case "HSET":
		if !found {
			a.db.NewHash(key)
			r, _ = a.db.Find(key)
		}
		h := a.db.Hash(r)
		for i := 0; i < len(args); i += 2 {
			h.Set(args[i], args[i+1])
		}
	case "ZADD":
		if !found {
			a.db.NewZSet(key)
			r, _ = a.db.Find(key)
		}
		z := a.db.ZSet(r)
		for i := 0; i < len(args); i += 2 {
			f, err := strconv.ParseFloat(string(args[i]), 64)
			if err != nil {
				a.t.Fatalf("score %q: %v", args[i], err)
			}
			z.Set(args[i+1], f)
		}
	default:
		a.t.Fatalf("command %s", name)
	}
}

func (a *applier) number(b []byte) int64 {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		a.t.Fatalf("number %q: %v", b, err)
	}
	return n
}

func (a *applier) restore(key []byte, args [][]byte) {
	a.t.Helper()
	if len(args) < 4 || string(args[2]) != "REPLACE" || string(args[3]) != "ABSTTL" {
		a.t.Fatalf("RESTORE with %q", args[2:])
	}
	if err := rdb.VerifyDump(args[1], false); err != nil {
		a.t.Fatalf("payload of %q: %v", key, err)
	}
	meta := rdb.NoMeta
	if len(args) == 6 && string(args[4]) == "IDLETIME" {
		meta.IdleSec = a.number(args[5])
	} else if len(args) == 6 && string(args[4]) == "FREQ" {
		meta.Freq = int(a.number(args[5]))
	} else if len(args) != 4 {
		a.t.Fatalf("RESTORE with %q", args[2:])
	}
	l := Loader{KS: a.db.ks, DB: a.db}
	if err := rdb.LoadValue(args[1], key, meta, &l, rdb.Options{Sanitize: true}); err != nil {
		a.t.Fatalf("value of %q: %v", key, err)
	}
	if at := a.number(args[0]); at > 0 {
		a.db.SetExpire(key, at)
	}
}

// slotContent is content of the keys of these slots of database 0.
func slotContent(ks *Keyspace, slots *slot.Set) map[string]string {
	all := content(ks)
	for k := range all {
		var db int
		var key string
		if _, err := fmt.Sscanf(k, "%d %q", &db, &key); err != nil || db != 0 || !slots.Has(slot.OfString(key)) {
			delete(all, k)
		}
	}
	return all
}

// newApplier makes a keyspace for what a snapshot of slots tells.
func newApplier(t tester, slots *slot.Set) *applier {
	ks := slotKeyspace(t)
	ks.Limits().HashMaxListpackEntries, ks.Limits().ZsetMaxListpackEntries = 16, 16
	return &applier{t: t, db: ks.DB(0), slots: slots}
}

// checkSnapshot compares what was told with what there was, and looks after what
// the snapshot has left behind.
func (a *applier) checkSnapshot(s *Snapshot, ks *Keyspace, want map[string]string) {
	a.t.Helper()
	if done, total := s.Progress(); done != total || total != len(want) {
		a.t.Fatalf("progress %d of %d, want %d", done, total, len(want))
	}
	if s.Backlog() != 0 || ks.Snapshotting() {
		a.t.Fatalf("backlog %d after the end", s.Backlog())
	}
	compareContent(a.t, content(a.db.ks), want)
	closeKeyspace(a.t, a.db.ks)
	for i := range ks.NumDB() {
		ks.DB(i).check()
	}
}

// someSlots is a set of slots that the keys below are in or not.
func someSlots(rng *rand.Rand) *slot.Set {
	set := new(slot.Set)
	switch rng.IntN(4) {
	case 0:
		set.AddRange(0, slot.Count-1)
	case 1:
		set.AddRange(0, slot.Count/2)
	default:
		for n := range slot.Count {
			if rng.IntN(3) > 0 {
				set.Add(n)
			}
		}
	}
	return set
}

// The snapshot of slots holds the moment of its beginning, whatever happens
// meanwhile, and knows only its slots.
func TestSlotSnapshotIsTheMomentOfItsBeginning(t *testing.T) {
	seed := uint64(0)
	for _, keys := range []int{3, 40, 1200} {
		for _, step := range []int{1, 20, 300} {
			for _, writes := range []int{0, 1, 30} {
				if keys == 1200 && (step == 1 || writes == 0 || testing.Short()) {
					continue // slow, and nothing that the others do not show
				}
				t.Run(fmt.Sprintf("%d keys, steps of %d, %d writes between", keys, step, writes), func(t *testing.T) {
					rounds := 3
					if keys == 1200 {
						rounds = 1
					}
					for range rounds {
						seed++
						testSlotSnapshotMoment(t, rand.New(rand.NewPCG(seed, 11)), keys, step, writes)
					}
				})
			}
		}
	}
}

// slotName makes keys: of tags, so that some slots have an index of their own
// when there are many.
func slotName(rng *rand.Rand, keys int) func() []byte {
	tags := 1 + rng.IntN(3)
	return func() []byte {
		n := rng.IntN(keys)
		if n%3 == 0 {
			return fmt.Appendf(nil, "key%d", n)
		}
		return fmt.Appendf(nil, "{tag%d}key%d", n%tags, n)
	}
}

func testSlotSnapshotMoment(t *testing.T, rng *rand.Rand, keys, step, writes int) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	ks.Limits().HashMaxListpackEntries, ks.Limits().ZsetMaxListpackEntries = 16, 16
	name := slotName(rng, keys)
	change := func() {
		if rng.IntN(60) == 0 {
			// A string that is told in parts.
			ks.DB(0).SetString(name(), bytes.Repeat([]byte("long"), 10_000+rng.IntN(30_000)), []int64{NoExpiry, 1 << 42}[rng.IntN(2)])
			return
		}
		if rng.IntN(20) == 0 {
			ks.Defrag(50)
		}
		if key := name(); rng.IntN(8) == 0 {
			if r, ok := ks.DB(0).Find(key); ok && r.Type() == TypeString && len(r.Bytes()) > 10_000 {
				// One that grows, or is written to at some other place.
				switch rng.IntN(4) {
				case 0:
					ks.DB(0).AppendString(key, bytes.Repeat([]byte("more"), rng.IntN(10_000)))
				case 1:
					ks.DB(0).MutString(key, 0)[rng.IntN(10_000)] = '!'
				default:
					ks.DB(0).SetRange(key, rng.IntN(len(r.Bytes())+10_000), bytes.Repeat([]byte("part"), rng.IntN(30_000)))
				}
				return
			}
		}
		disturbNamed(ks, rng, name)
	}
	for range keys * 2 {
		change()
	}
	for round := range 4 {
		slots := someSlots(rng)
		a := newApplier(t, slots)
		s := ks.BeginSlotSnapshot(slots, a)
		if round == 1 {
			// Given up half way: the next one begins with nothing left of it.
			for i := range rng.IntN(5) {
				s.Step(step)
				for range writes + i {
					change()
				}
			}
			s.Abort()
			for range rng.IntN(30) {
				change()
			}
			if rng.IntN(2) == 0 {
				ks.FreeStep(50)
			}
			closeKeyspace(t, a.db.ks)
			a = newApplier(t, slots)
			s = ks.BeginSlotSnapshot(slots, a)
		}
		want := slotContent(ks, slots)
		for changes := 0; !s.Step(step); {
			for i := 0; i < writes && changes < 3*keys; i, changes = i+1, changes+1 {
				change()
			}
		}
		a.checkSnapshot(s, ks, want)
		if round == 2 {
			// One of everything, which wants all entries to be alike.
			fileSnapshotMoment(t, ks, change)
		}
	}
	emptyAll(t, ks)
}

// fileSnapshotMoment takes a snapshot of all databases.
func fileSnapshotMoment(t *testing.T, ks *Keyspace, change func()) {
	t.Helper()
	want := content(ks)
	f := newFileSnapshot()
	s := ks.BeginSnapshot(f)
	for i := 0; !s.Step(100); i++ {
		if i < 100 {
			change()
		}
	}
	back := f.load(t, ks.NumDB())
	compareContent(t, content(back), want)
	closeKeyspace(t, back)
}

// A slot that gets an index of its own, or loses it, while the walk is in it is
// told once and whole.
func TestSlotSnapshotWhileASlotIsSetApartOrJoins(t *testing.T) {
	for _, c := range []struct{ begin, grow, shrink int }{{200, 2000, 0}, {2000, 0, 1960}, {300, 1000, 1290}, {6000, 0, 5990}} {
		for _, stepsBefore := range []int{0, 1, 3, 6} {
			ks := slotKeyspace(t)
			db := ks.DB(0)
			name := func(i int) []byte { return fmt.Appendf(nil, "{hot}%d", i) }
			for i := range c.begin {
				db.SetString(name(i), []byte("v"), NoExpiry)
				db.SetString(fmt.Append(nil, "cold", i%500), []byte("v"), NoExpiry)
			}
			slots := new(slot.Set)
			slots.Add(slot.OfString("hot"))
			want := slotContent(ks, slots)
			a := newApplier(t, slots)
			s := ks.BeginSlotSnapshot(slots, a)
			for range stepsBefore {
				s.Step(40)
			}
			for i := range c.grow {
				db.SetString(name(c.begin+i), []byte("new"), NoExpiry)
			}
			for i := range c.shrink {
				db.Delete(name(i), false)
			}
			for !s.Step(50) {
			}
			a.checkSnapshot(s, ks, want)
			emptyAll(t, ks)
			closeKeyspace(t, ks)
		}
	}
}

// Large values come in commands of about 64 KiB, as they were at the beginning,
// though they are changed and deleted meanwhile.
func TestSlotSnapshotTellsLargeValuesInParts(t *testing.T) {
	all := new(slot.Set)
	all.AddRange(0, slot.Count-1)
	for _, typ := range append([]Type{TypeString}, collTypes...) {
		for _, then := range []string{"stays", "persists", "changes", "is replaced", "goes"} {
			ks := slotKeyspace(t)
			db := ks.DB(0)
			if typ == TypeString {
				db.SetString(testKey, bytes.Repeat([]byte("0123456789abcdef"), 1<<16), NoExpiry)
			} else {
				fillColl(db, typ, testKey, 20_000)
			}
			db.SetExpire(testKey, 1<<42)
			want := content(ks)
			a := newApplier(t, all)
			s := ks.BeginSlotSnapshot(all, a)
			steps := 0
			for !s.Step(500) {
				steps++
				if steps != 5 {
					continue
				}
				r := handle(t, db)
				switch {
				case then == "goes":
					db.Delete(testKey, true)
				case then == "persists":
					db.Persist(testKey)
				case then == "is replaced":
					db.SetString(testKey, []byte("other"), NoExpiry)
				case then == "changes" && typ == TypeString:
					db.AppendString(testKey, []byte("more"))
				case then == "changes":
					mutate(db, r, rand.New(rand.NewPCG(1, 1)), 2000)
				}
			}
			if a.commands < 5 || a.largest > 65<<10 || steps < 6 {
				t.Errorf("%v: %d commands in %d steps, the largest of %d bytes", typ, a.commands, steps, a.largest)
			}
			a.checkSnapshot(s, ks, want)
			emptyAll(t, ks)
			closeKeyspace(t, ks)
		}
	}
}

// A command that is larger than it is to be has one element.
func TestSlotSnapshotTellsLargeElementsAlone(t *testing.T) {
	all := new(slot.Set)
	all.AddRange(0, slot.Count-1)
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	db := ks.DB(0)
	l := db.NewList([]byte("list"))
	h := db.NewHash([]byte("hash"))
	z := db.NewZSet([]byte("zset"))
	for i := range 6 {
		big := bytes.Repeat([]byte{byte('a' + i)}, 100_000)
		l.PushTail(big)
		h.Set(fmt.Append(nil, i), big)
		z.Set(big, []float64{0, 1.5, -1e300, 0.1, 1 << 53, 3}[i])
	}
	want := content(ks)
	a := newApplier(t, all)
	s := ks.BeginSlotSnapshot(all, a)
	for !s.Step(2) {
	}
	if a.largest > 100_100 {
		t.Errorf("a command of %d bytes", a.largest)
	}
	a.checkSnapshot(s, ks, want)
}

func TestSlotSnapshotTellsAccessInformationWhenAsked(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	ks.DB(0).SetString([]byte("k"), []byte("v"), 5000)
	r, _ := ks.DB(0).Find([]byte("k"))
	all := new(slot.Set)
	all.AddRange(0, slot.Count-1)
	for _, c := range []struct {
		lfu, idle bool
		want      string
	}{{false, false, "REPLACE ABSTTL"}, {false, true, "REPLACE ABSTTL IDLETIME 30"}, {true, true, "REPLACE ABSTTL FREQ 7"}} {
		ks.Limits().LFU, ks.Limits().SaveIdle = c.lfu, c.idle
		if c.lfu {
			r.SetFreq(7)
		} else {
			r.SetIdle(30)
		}
		w := new(commandList)
		for s := ks.BeginSlotSnapshot(all, w); !s.Step(10); {
		}
		want := "RESTORE k 5000 "
		payload := rdb.AppendDumpFooter(r.AppendDumpValue(nil, true), 0)
		if len(*w) != 1 || (*w)[0] != want+string(payload)+" "+c.want {
			t.Errorf("LFU %v, idle %v: %q", c.lfu, c.idle, *w)
		}
	}
}

// commandList keeps commands, their words with spaces between.
type commandList []string

func (l *commandList) Command(args ...[]byte) {
	*l = append(*l, string(bytes.Join(args, []byte(" "))))
}

// Copies that are made before writes are written soon, and writes to other slots
// make none.
func TestSlotSnapshotOfChangesDoesNotPileUp(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	const n = 20_000
	for i := range n {
		ks.DB(0).SetString(fmt.Append(nil, i), make([]byte, 100), NoExpiry)
	}
	slots := new(slot.Set)
	slots.AddRange(0, slot.Count/2-1)
	want := slotContent(ks, slots)
	a := newApplier(t, slots)
	s := ks.BeginSlotSnapshot(slots, a)
	for i := range n {
		key := fmt.Append(nil, i)
		before := s.Backlog()
		ks.DB(0).SetString(key, make([]byte, 101), NoExpiry)
		if !slots.Has(slot.Of(key)) && s.Backlog() != before {
			t.Fatal("a write to another slot was kept")
		}
		if i%100 == 0 {
			s.Step(1)
		}
		if b := s.Backlog(); b > 1<<20 {
			t.Fatalf("backlog of %d bytes after %d writes", b, i)
		}
	}
	for !s.Step(1000) {
	}
	a.checkSnapshot(s, ks, want)
}

// With many slots that hold little, and slots that hold nothing, it ends in few
// steps.
func TestSlotSnapshotOfFewKeysEndsSoon(t *testing.T) {
	ks := slotKeyspace(t)
	defer closeKeyspace(t, ks)
	for i := range 3 {
		ks.DB(0).SetString(fmt.Append(nil, i), []byte("v"), NoExpiry)
	}
	all := new(slot.Set)
	all.AddRange(0, slot.Count-1)
	for _, slots := range []*slot.Set{all, new(slot.Set)} {
		want := slotContent(ks, slots)
		a := newApplier(t, slots)
		s := ks.BeginSlotSnapshot(slots, a)
		steps := 1
		for ; !s.Step(10); steps++ {
		}
		if steps > 3 {
			t.Errorf("%d steps for %d keys", steps, len(want))
		}
		a.checkSnapshot(s, ks, want)
	}
}
