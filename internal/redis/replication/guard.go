package replication

// Offer is what a replica knows when its master wants to replace the replica's
// data by its own.
type Offer struct {
	Own    History
	OwnEnd uint64
	// HasData: the replica holds something that could be lost.
	HasData bool
	ID      string // of the master's history
	Offset  uint64 // where the master's history is
	// Forced: somebody told the replica to follow this master, it does not
	// come back by itself.
	Forced bool
}

// Refused is the lineage guard: a replica that reconnects by itself does not
// give its data up for a history that it has never heard of and that is behind
// it. This is what a master looks like that lost its disk and came back empty.
func (o *Offer) Refused() bool {
	return !o.Forced && o.HasData && !o.Own.Knows(o.ID) && o.Offset < o.OwnEnd
}

// Divergence is the stretch of the stream that is lost when the replica takes
// the offer: what it has beyond the point up to which the new history is known
// to be the same as its own. It is empty (from == to) if nothing is lost.
//
// A master that was replaced knows no more than that the new history begins
// where its successor stopped following it: it ends where its own history went
// on alone. sharedUpTo is the highest position that any of its replicas had
// acknowledged.
func (o *Offer) Divergence(sharedUpTo uint64) (from, to uint64) {
	if sharedUpTo >= o.OwnEnd {
		return o.OwnEnd, o.OwnEnd
	}
	return sharedUpTo, o.OwnEnd
}
