package server

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"

	"holdfast/internal/redis/keyspace"
	"holdfast/internal/redis/resp"
)

// The digest of DEBUG DIGEST, which is equal on any two servers that hold the
// same data, Redis included. Values whose order means nothing are combined by
// exclusive or, the others one after another.

type digest [sha1.Size]byte

// xor combines a value whose place means nothing.
func (d *digest) xor(p []byte) {
	sum := sha1.Sum(p)
	for i := range d {
		d[i] ^= sum[i]
	}
}

// mix combines a value whose place means something.
func (d *digest) mix(p []byte) {
	d.xor(p)
	*d = sha1.Sum(d[:])
}

func (d *digest) String() string { return hex.EncodeToString(d[:]) }

// value adds the value of r, and whether it expires.
func (d *digest) value(r keyspace.Ref) {
	db := r.DB()
	var kind [4]byte
	binary.BigEndian.PutUint32(kind[:], uint32(r.Type()))
	d.mix(kind[:])
	switch r.Type() {
	case keyspace.TypeString:
		d.mix(r.Bytes())
	case keyspace.TypeList:
		l := db.List(r)
		l.Each(0, false, func(_ int, v []byte) bool {
			d.mix(v)
			return true
		})
	case keyspace.TypeSet:
		m := db.Set(r)
		m.Each(func(v []byte) bool {
			d.xor(v)
			return true
		})
	case keyspace.TypeZSet:
		z := db.ZSet(r)
		z.Each(func(m []byte, score float64) bool {
			var t [40]byte
			var x digest
			x.mix(m)
			x.mix(resp.AppendFloat(t[:0], score))
			d.xor(x[:])
			return true
		})
	case keyspace.TypeHash:
		h := db.Hash(r)
		h.Each(func(f, v []byte) bool {
			var x digest
			x.mix(f)
			x.mix(v)
			d.xor(x[:])
			return true
		})
	}
	if r.ExpireAt() >= 0 {
		d.xor([]byte("!!expire!!"))
	}
}

// datasetDigest is the digest of all databases.
func datasetDigest(ks *keyspace.Keyspace) (all digest) {
	for i := range ks.NumDB() {
		db := ks.DB(i)
		if db.Len() == 0 {
			continue
		}
		var id [4]byte
		binary.BigEndian.PutUint32(id[:], uint32(i))
		all.mix(id[:])
		db.Each(func(r keyspace.Ref) bool {
			var d digest
			d.mix(r.Key())
			d.value(r)
			all.xor(d[:])
			return true
		})
	}
	return all
}
