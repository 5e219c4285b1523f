package cluster

// For whoever makes a View by hand, as tests of the data path do. A View that
// is in use is never changed.

// SetOwner makes node, one of v.Nodes, the owner of the slots from first to
// last; nil leaves them without one.
func (v *View) SetOwner(first, last int, node *NodeView) {
	id := uint16(0)
	for i, n := range v.Nodes {
		if n == node {
			id = uint16(i + 1)
		}
	}
	for n := first; n <= last; n++ {
		v.owner[n] = id
	}
}

// SetMigrating says that slot n of ours moves to node; nil: that it does not.
func (v *View) SetMigrating(n int, node *NodeView) { set(&v.migrating, n, node) }

// SetImporting says that slot n is being taken from node; nil: that it is not.
func (v *View) SetImporting(n int, node *NodeView) { set(&v.importing, n, node) }

func set(m *map[int]*NodeView, n int, node *NodeView) {
	if node == nil {
		delete(*m, n)
		return
	}
	if *m == nil {
		*m = make(map[int]*NodeView)
	}
	(*m)[n] = node
}
