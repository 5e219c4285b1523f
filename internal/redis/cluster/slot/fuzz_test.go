package slot

import (
	"bytes"
	"testing"
)

// slowCRC16 is the definition, bit by bit.
func slowCRC16(p []byte) uint16 {
	var crc uint16
	for _, b := range p {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

func FuzzCRC16AgreesWithTheDefinition(f *testing.F) {
	p := []byte("{}0123456789abcdef\xff\x00{tag}")
	for i := range p {
		f.Add(p[i:])
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, want := CRC16(p), slowCRC16(p); got != want {
			t.Errorf("CRC16(%q) = %#x, want %#x", p, got, want)
		}
		if Of(p) != slowOf(p) {
			t.Errorf("Of(%q) = %d, want %d", p, Of(p), slowOf(p))
		}
		if Of(p) != OfString(string(p)) {
			t.Errorf("Of and OfString disagree on %q", p)
		}
	})
}

// slowOf is the definition of the specification.
func slowOf(key []byte) int {
	if i := bytes.IndexByte(key, '{'); i >= 0 {
		if n := bytes.IndexByte(key[i+1:], '}'); n > 0 {
			key = key[i+1 : i+1+n]
		}
	}
	return int(slowCRC16(key) % Count)
}
