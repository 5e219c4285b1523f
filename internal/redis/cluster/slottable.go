package cluster

// slotTable says of every slot which node it concerns, by the number of the
// node (Core.nums); 0: none. It is cut into pages that a View shares: a change
// of one slot copies one page, not the table.
type slotTable struct {
	pages  [slotPages]*slotPage // nil: nothing but zeros
	shared uint64               // bit i: page i belongs to a View, and is copied before it is written
	used   int                  // slots that are not 0
}

const (
	slotPages = 64
	perPage   = Slots / slotPages
)

type slotPage [perPage]uint16

type slotPageTable = [slotPages]*slotPage

func (t *slotTable) get(s int) uint16 { return pageGet(&t.pages, s) }

func pageGet(t *slotPageTable, s int) uint16 {
	if p := t[s/perPage]; p != nil {
		return p[s%perPage]
	}
	return 0
}

// set changes one slot.
func (t *slotTable) set(s int, num uint16) {
	old := t.get(s)
	if old == num {
		return
	}
	switch {
	case old == 0:
		t.used++
	case num == 0:
		t.used--
	}
	i := s / perPage
	switch p := t.pages[i]; {
	case p == nil:
		t.pages[i] = new(slotPage)
	case t.shared>>i&1 != 0:
		own := *p
		t.pages[i] = &own
	}
	t.shared &^= 1 << i
	t.pages[i][s%perPage] = num
}

// clear empties the table.
func (t *slotTable) clear() { *t = slotTable{} }

// publish gives the pages to a View: they are not written any more.
func (t *slotTable) publish() slotPageTable {
	t.shared = ^uint64(0)
	return t.pages
}
