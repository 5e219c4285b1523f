package process

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"hash"
)

// Private keys under a password in the form that OpenSSL writes today: PKCS #8
// with PBES2 (RFC 8018), that is a key made of the password by PBKDF2, and AES-CBC.

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

// kdfHashes are the pseudo-random functions by their object identifiers.
var kdfHashes = map[string]func() hash.Hash{
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

// cbcKeyBytes are the lengths of the keys of AES-CBC by its object identifiers.
var cbcKeyBytes = map[string]int{
	"2.16.840.1.101.3.4.1.2":  16,
	"2.16.840.1.101.3.4.1.22": 24,
	"2.16.840.1.101.3.4.1.42": 32,
}

// maxKDFRounds bounds the work that a key file can ask for.
const maxKDFRounds = 1_000_000

var (
	errKeyForm = errors.New("the encryption of the private key is not supported")
	errKeyPass = errors.New("the private key cannot be decrypted with this password")
)

type pbes2Params struct {
	KDF, Cipher pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt   []byte
	Rounds int
	KeyLen int                      `asn1:"optional"`
	PRF    pkix.AlgorithmIdentifier `asn1:"optional"`
}

// decryptPKCS8 returns the private key, in PKCS #8 without encryption, of an
// EncryptedPrivateKeyInfo.
func decryptPKCS8(der, pass []byte) ([]byte, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	var scheme pbes2Params
	var kdf pbkdf2Params
	var iv []byte
	if _, err := asn1.Unmarshal(der, &info); err != nil || !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, errKeyForm
	}
	if _, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &scheme); err != nil || !scheme.KDF.Algorithm.Equal(oidPBKDF2) {
		return nil, errKeyForm
	}
	if _, err := asn1.Unmarshal(scheme.KDF.Parameters.FullBytes, &kdf); err != nil {
		return nil, errKeyForm
	}
	if _, err := asn1.Unmarshal(scheme.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, errKeyForm
	}
	prf := sha1.New // what is meant when nothing is said
	if len(kdf.PRF.Algorithm) > 0 {
		prf = kdfHashes[kdf.PRF.Algorithm.String()]
	}
	size := cbcKeyBytes[scheme.Cipher.Algorithm.String()]
	if prf == nil || size == 0 || len(iv) != aes.BlockSize || kdf.Rounds < 1 || kdf.Rounds > maxKDFRounds {
		return nil, errKeyForm
	}
	if len(info.Data) == 0 || len(info.Data)%aes.BlockSize != 0 {
		return nil, errKeyPass
	}
	key, err := pbkdf2.Key(prf, string(pass), kdf.Salt, kdf.Rounds, size)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(info.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, info.Data)
	return unpad(plain)
}

// unpad takes off the padding, each byte of which is its length.
func unpad(b []byte) ([]byte, error) {
	n := int(b[len(b)-1])
	if n < 1 || n > aes.BlockSize {
		return nil, errKeyPass
	}
	for _, c := range b[len(b)-n:] {
		if int(c) != n {
			return nil, errKeyPass
		}
	}
	return b[:len(b)-n], nil
}
