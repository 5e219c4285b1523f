// Package slot computes: it maps keys to the 16384 hash slots of Redis Cluster.
// It imports nothing of the project, so that every layer that stores or routes
// keys may use it.
//
//	slot.Of([]byte("user:{42}:name")) == slot.Of([]byte("42"))
package slot

import (
	"bytes"
	"unsafe"
)

// Count is the number of hash slots of a cluster.
const Count = 16384

// tables are for CRC-16/XMODEM (polynomial 0x1021, initial value 0):
// tables[k][b] is what the byte b contributes k bytes before the end of a
// piece, so that pieces of eight bytes need no chain of eight look-ups.
var tables = func() (t [8][256]uint16) {
	for i := range t[0] {
		crc := uint16(i) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
		t[0][i] = crc
	}
	for k := 1; k < len(t); k++ {
		for i, crc := range t[k-1] {
			t[k][i] = crc<<8 ^ t[0][crc>>8]
		}
	}
	return t
}()

// CRC16 is the CRC-16/XMODEM of p; of "123456789" it is 0x31C3.
func CRC16(p []byte) uint16 {
	var crc uint16
	t := &tables
	for len(p) >= 8 {
		crc = t[7][p[0]^byte(crc>>8)] ^ t[6][p[1]^byte(crc)] ^
			t[5][p[2]] ^ t[4][p[3]] ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]]
		p = p[8:]
	}
	if len(p) >= 4 {
		crc = t[3][p[0]^byte(crc>>8)] ^ t[2][p[1]^byte(crc)] ^ t[1][p[2]] ^ t[0][p[3]]
		p = p[4:]
	}
	for i := range len(p) {
		crc = crc<<8 ^ t[0][byte(crc>>8)^p[i]]
	}
	return crc
}

// Of is the slot of key, in [0, Count). When key holds a "{" and, after the
// first one, a "}" with at least one byte between them, only what lies between
// the first "{" and the first "}" after it is hashed (a hash tag).
func Of(key []byte) int {
	if i := bytes.IndexByte(key, '{'); i >= 0 {
		if n := bytes.IndexByte(key[i+1:], '}'); n > 0 {
			key = key[i+1 : i+1+n]
		}
	}
	return int(CRC16(key) & (Count - 1))
}

// OfString is Of for a string; it does not allocate.
func OfString(key string) int { return Of(unsafe.Slice(unsafe.StringData(key), len(key))) }
