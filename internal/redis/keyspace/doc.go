// Package keyspace stores the data of a server: numbered databases of keys with
// typed values, their expiry and their access times.
//
//	ks, err := keyspace.New(keyspace.Options{Databases: 16})
//	db := ks.DB(0)
//	db.SetString([]byte("k"), []byte("v"), keyspace.NoExpiry)
//	if r, ok := db.Find([]byte("k")); ok {
//		use(r.Bytes())
//	}
//
// There are no locks inside: whoever calls holds one lock for all of it. Time
// comes in through SetClock and arguments.
//
// Memory. Keys and values live outside the Go heap, in an Arena: an entry block
// holds header, key and value, or a whole small collection. An Index of 64-bit
// slots finds entries by the hash of their keys; a second one per database holds
// those that expire. Collections that have grown are Go objects whose elements
// are blocks of the same arena with an Index of their own. The garbage collector
// so sees a few slices, however many keys there are.
//
// What the package hands out (keys, values, elements) aliases the arena unless
// it says otherwise, and is valid until the next call that changes anything.
// A build with the tag poison makes violations visible.
//
// Snapshots are taken without fork and without stopping: see snapshot.go. In
// cluster mode the keys of each hash slot are known: see slots.go; snapshots of
// some of them are commands: see slotsnap.go.
//
// Downsides: an entry that grows beyond its size class moves; memory of one
// class serves no other until a whole slab of it is free; a Ref is only as good
// as the caller's discipline.
package keyspace
