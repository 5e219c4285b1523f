package process

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
)

// One throw-away key as `openssl pkcs8 -topk8` encrypts it under the password
// 1234 with different options, and as it is without a password.
const (
	plainKey  = "MC4CAQAwBQYDK2VwBCIEIIeYGl1Os6Gwl4fzxEdlTIz8ZTX4Zi4hvrlQvqQ/ARJQ"
	tripleDES = "MFgwHAYKKoZIhvcNAQwBAzAOBAi0v70tECzD2AICCAAEOIymR4bxT9/Rr0yL9wOzFmdeOGaMpg1WhmVWhxlyiSIA2S/WheJHG/MzK9pjZwJ+77supdYyrptv"
)

var encryptedKeys = map[string]string{
	"aes-256-cbc hmacWithSHA256": "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAg8zpkGyxR9kAICCAAwDAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEDnoxHMvuRQUDP/+TdgfuQAEQGf9HNuJy1kJfOAaBh6j+TJTMI7SChObv/mYb5IkHq/b3xj84+VRjj3VMie0zQ5N969+Rvl1l+ujBOmA4/ZTQtc=",
	"aes-128-cbc hmacWithSHA1":   "MIGNMEkGCSqGSIb3DQEFDTA8MBsGCSqGSIb3DQEFDDAOBAhByIclP1rFfAICCAAwHQYJYIZIAWUDBAECBBA29btl1iBgAVWruBLH5RXIBEBvL40f658lLghrJ7Dd9KqiDvqKQVWWFKzED+LCSI69F5CQL2Qig4HnqeOwn7U0ghsHos21GyfaKgNR1IIAaCBr",
	"aes-192-cbc hmacWithSHA512": "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgMwUuf/1WJfwICCAAwDAYIKoZIhvcNAgsFADAdBglghkgBZQMEARYEEEQ5U/gzO3V5I5yY+/cD9rsEQOIKy/hEtKyezCWTBzUIimx5QK6du+h4Z8uWZyLSIr/OboxB33NSmYvg+G9HnuSE2Sx3+t1BI7plaT+S+XlYFBY=",
	"aes-256-cbc hmacWithSHA384": "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjLHh7wEha8HQICCAAwDAYIKoZIhvcNAgoFADAdBglghkgBZQMEASoEEI0trG91S601VmjvXVxKynoEQCv4Nh9nr/T7H9c4VvjzNyi3qtuKFruzH/9Xf9dfqcPzeUFH68VVxsOa1zvuWiK9bFqIw81LjMuldwts9pu88RQ=",
}

func decoded(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tls-key-file-pass: keys as today's OpenSSL writes them (RFC 8018, PBES2).
func TestEncryptedPKCS8Keys(t *testing.T) {
	plain := decoded(t, plainKey)
	for name, text := range encryptedKeys {
		got, err := decryptPKCS8(decoded(t, text), []byte("1234"))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		if got, err := decryptPKCS8(decoded(t, text), []byte("12345")); err == nil && bytes.Equal(got, plain) {
			t.Errorf("%s: opened by a wrong password", name)
		}
	}
	if _, err := decryptPKCS8(decoded(t, tripleDES), []byte("1234")); !errors.Is(err, errKeyForm) {
		t.Errorf("a form that is not supported: %v", err)
	}
}

func FuzzDecryptPKCS8(f *testing.F) {
	for _, text := range encryptedKeys {
		f.Add(decoded(f, text))
	}
	f.Add(decoded(f, tripleDES))
	f.Fuzz(func(t *testing.T, der []byte) {
		if len(der) > 4096 {
			return
		}
		_, _ = decryptPKCS8(der, []byte("1234")) // whatever it is, it ends and does not panic
	})
}
