package slot

import (
	"testing"

	"pgregory.net/rapid"
)

// Redis Cluster specification, appendix A: the CRC of "123456789" is 0x31C3.
func TestCRC16IsXmodem(t *testing.T) {
	if got := CRC16([]byte("123456789")); got != 0x31C3 {
		t.Fatalf("CRC16 = %#x, want 0x31c3", got)
	}
}

// Redis Cluster specification: hash tags. The numbers are what CLUSTER KEYSLOT
// of Redis 7.0.15 answers.
func TestHashTagAloneIsHashed(t *testing.T) {
	for key, want := range map[string]int{
		"": 0, "foo": 12182, "bar": 5061, "{foo}": 12182, "x{foo}y": 12182, "{foo}{bar}": 12182,
		"foo{}{bar}": 8363, "foo{{bar}}zap": 4015, "{": 4092, "123456789": 12739,
	} {
		if got := Of([]byte(key)); got != want {
			t.Errorf("Of(%q) = %d, want %d", key, got, want)
		}
		if got := OfString(key); got != want {
			t.Errorf("OfString(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestBothFormsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringOf(rapid.RuneFrom([]rune("{}ab"))).Draw(t, "key")
		if a, b := Of([]byte(key)), OfString(key); a != b {
			t.Fatalf("Of(%q) = %d, OfString = %d", key, a, b)
		}
	})
}

func BenchmarkOf(b *testing.B) {
	key := []byte("key:000000012345")
	for b.Loop() {
		Of(key)
	}
}
