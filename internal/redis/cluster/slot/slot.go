// Package slot computes: it maps keys to the 16384 hash slots of Redis Cluster.
// It imports nothing of the project, so that every layer that stores or routes
// keys may use it.
//
//	slot.Of([]byte("user:{42}:name")) == slot.Of([]byte("42"))
package slot

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// Count is the number of hash slots of a cluster.
const Count = 16384

// table is for CRC-16/XMODEM (polynomial 0x1021, initial value 0): at 256k+b
// stands what the byte b contributes k bytes before the end of a piece, so that
// pieces of eight bytes need no chain of eight look-ups. It is one array rather
// than eight for the sake of one base register: all its places are then reached by
// an offset in the instruction.
var table = func() (t [8 * 256]uint16) {
	for i := range 256 {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		t[i] = crc
	}
	for i := 256; i < len(t); i++ {
		crc := t[i-256]
		t[i] = crc<<8 ^ t[crc>>8]
	}
	return t
}()

// CRC16 is the CRC-16/XMODEM of p; of "123456789" it is 0x31C3.
func CRC16(p []byte) uint16 {
	var crc uint16
	t := &table
	for len(p) >= 8 {
		w := binary.LittleEndian.Uint64(p) ^ uint64(bits.ReverseBytes16(crc))
		crc = t[0x700+int(byte(w))] ^ t[0x600+int(byte(w>>8))] ^ t[0x500+int(byte(w>>16))] ^ t[0x400+int(byte(w>>24))] ^
			t[0x300+int(byte(w>>32))] ^ t[0x200+int(byte(w>>40))] ^ t[0x100+int(byte(w>>48))] ^ t[w>>56]
		p = p[8:]
	}
	if len(p) >= 4 {
		crc = t[0x300+int(p[0]^byte(crc>>8))] ^ t[0x200+int(p[1]^byte(crc))] ^ t[0x100+int(p[2])] ^ t[p[3]]
		p = p[4:]
	}
	for _, b := range p {
		crc = crc<<8 ^ t[byte(crc>>8)^b]
	}
	return crc
}

// Of is the slot of key, in [0, Count). When key holds a "{" and, after the
// first one, a "}" with at least one byte between them, only what lies between
// the first "{" and the first "}" after it is hashed (a hash tag).
//
// Every request pays for it: a key is looked through for a "{" by the same words
// that CRC16 is computed from, and most have none.
func Of(key []byte) int {
	var crc uint16
	t := &table
	p := key
	for len(p) >= 8 {
		w := binary.LittleEndian.Uint64(p)
		// The lowest byte of x that is zero sets its highest bit in the result.
		if x := w ^ 0x7b7b7b7b7b7b7b7b; (x-0x0101010101010101)&^x&0x8080808080808080 != 0 {
			return ofTagged(key)
		}
		w ^= uint64(bits.ReverseBytes16(crc))
		crc = t[0x700+int(byte(w))] ^ t[0x600+int(byte(w>>8))] ^ t[0x500+int(byte(w>>16))] ^ t[0x400+int(byte(w>>24))] ^
			t[0x300+int(byte(w>>32))] ^ t[0x200+int(byte(w>>40))] ^ t[0x100+int(byte(w>>48))] ^ t[w>>56]
		p = p[8:]
	}
	for _, b := range p {
		if b == '{' {
			return ofTagged(key)
		}
		crc = crc<<8 ^ t[byte(crc>>8)^b]
	}
	return int(crc & (Count - 1))
}

// ofTagged is Of for a key with a "{".
func ofTagged(key []byte) int {
	if i := bytes.IndexByte(key, '{'); i >= 0 {
		if n := bytes.IndexByte(key[i+1:], '}'); n > 0 {
			key = key[i+1 : i+1+n]
		}
	}
	return int(CRC16(key) & (Count - 1))
}

// OfString is Of for a string; it does not allocate.
func OfString(key string) int { return Of(unsafe.Slice(unsafe.StringData(key), len(key))) }
