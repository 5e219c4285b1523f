package process

//lint:file-ignore ST1005 the wording is that of Redis

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/internal/redis/config"
)

// ServerTLS builds what the tls-* directives say about accepting.
func ServerTLS(c *config.Config) (*tls.Config, error) {
	switch {
	case c.TLSCertFile == "":
		return nil, errors.New("No tls-cert-file configured!")
	case c.TLSKeyFile == "":
		return nil, errors.New("No tls-key-file configured!")
	}
	if err := checkUnused(c); err != nil {
		return nil, err
	}
	cert, err := loadKeyPair(c.TLSCertFile, c.TLSKeyFile, c.TLSKeyFilePass)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: !c.TLSSessionCaching}
	if conf.ClientCAs, err = caPool(c); err != nil {
		return nil, err
	}
	switch c.TLSAuthClients {
	case config.TLSAuthClientsYes:
		conf.ClientAuth = tls.RequireAndVerifyClientCert
	case config.TLSAuthClientsOptional:
		conf.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if conf.ClientAuth != tls.NoClientCert && conf.ClientCAs == nil {
		return nil, errNoAuthority
	}
	return conf, protocols(conf, c)
}

// checkUnused refuses what Redis refuses in directives that have no effect here:
// the language chooses the suites of TLSv1.3 and the parameters of key exchange.
func checkUnused(c *config.Config) error {
	if path := c.TLSDHParamsFile; path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("Failed to load DH params file: %w", err)
		}
		if block, _ := pem.Decode(b); block == nil || block.Type != "DH PARAMETERS" {
			return fmt.Errorf("Failed to load DH params file: %s: it holds no DH PARAMETERS", path)
		}
	}
	for _, name := range strings.FieldsFunc(c.TLSCiphersuites, func(r rune) bool { return r == ':' }) {
		if !slices.Contains(suitesOf13, name) {
			return fmt.Errorf("Failed to configure ciphersuites: %s", c.TLSCiphersuites)
		}
	}
	return nil
}

// suitesOf13 are all there are for TLSv1.3, known to the language or not.
var suitesOf13 = []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"}

var errNoAuthority = errors.New("Either tls-ca-cert-file or tls-ca-cert-dir must be specified when tls-cluster, tls-replication or tls-auth-clients are enabled!")

// ClientTLS builds what the tls-* directives say about connecting to others.
// Like Redis, the peer's chain is verified and its name is not: servers are
// known by their addresses.
func ClientTLS(c *config.Config) (*tls.Config, error) {
	conf := &tls.Config{InsecureSkipVerify: true} // the chain is verified below
	certFile, keyFile, pass := c.TLSClientCertFile, c.TLSClientKeyFile, c.TLSClientKeyFilePass
	if certFile == "" {
		certFile, keyFile, pass = c.TLSCertFile, c.TLSKeyFile, c.TLSKeyFilePass
	}
	if certFile != "" {
		cert, err := loadKeyPair(certFile, keyFile, pass)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	pool, err := caPool(c)
	if err != nil {
		return nil, err
	}
	if pool == nil && (c.TLSReplication || c.TLSCluster) {
		return nil, errNoAuthority
	}
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool()}
		for _, cert := range cs.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		_, err := cs.PeerCertificates[0].Verify(opts)
		return err
	}
	return conf, protocols(conf, c)
}

func loadKeyPair(certFile, keyFile, pass string) (tls.Certificate, error) {
	if pass == "" {
		return tls.LoadX509KeyPair(certFile, keyFile)
	}
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return tls.Certificate{}, fmt.Errorf("%s holds no PEM block", keyFile)
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" {
		der, err := decryptPKCS8(block.Bytes, []byte(pass))
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("%s: %w", keyFile, err)
		}
		keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	//lint:ignore SA1019 keys encrypted in the old form are common still
	if x509.IsEncryptedPEMBlock(block) {
		//lint:ignore SA1019 see above
		der, err := x509.DecryptPEMBlock(block, []byte(pass))
		if err != nil {
			return tls.Certificate{}, err
		}
		keyPEM = pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der})
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

// caPool is tls-ca-cert-file and tls-ca-cert-dir; nil when neither is set.
func caPool(c *config.Config) (*x509.CertPool, error) {
	if c.TLSCACertFile == "" && c.TLSCACertDir == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	var files []string
	if c.TLSCACertFile != "" {
		files = append(files, c.TLSCACertFile)
	}
	if c.TLSCACertDir != "" {
		found, err := filepath.Glob(filepath.Join(c.TLSCACertDir, "*"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(b) && f == c.TLSCACertFile {
			return nil, fmt.Errorf("Failed to configure CA certificate(s) file/directory: %s holds none", f)
		}
	}
	return pool, nil
}

var protocolVersions = map[string]uint16{
	"tlsv1": tls.VersionTLS10, "tlsv1.1": tls.VersionTLS11, "tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13,
}

// protocols applies tls-protocols and tls-ciphers. Versions in between two that
// are named are offered too.
func protocols(conf *tls.Config, c *config.Config) error {
	conf.MinVersion = tls.VersionTLS12
	if c.TLSProtocols != "" {
		conf.MinVersion, conf.MaxVersion = 0, 0
		for _, w := range strings.Fields(strings.ToLower(c.TLSProtocols)) {
			v, ok := protocolVersions[w]
			if !ok {
				return fmt.Errorf("Invalid tls-protocols specified. Use a combination of 'TLSv1', 'TLSv1.1', 'TLSv1.2' and 'TLSv1.3'.")
			}
			if conf.MinVersion == 0 || v < conf.MinVersion {
				conf.MinVersion = v
			}
			conf.MaxVersion = max(conf.MaxVersion, v)
		}
	}
	if c.TLSCiphers == "" {
		return nil
	}
	if conf.CipherSuites = cipherSuites(c.TLSCiphers); len(conf.CipherSuites) == 0 {
		return fmt.Errorf("Failed to configure ciphers: %s", c.TLSCiphers)
	}
	return nil
}

// cipherSuites reads a list in the form of OpenSSL: names, the words DEFAULT,
// ALL and HIGH for every suite that is sound, and what is to be left out behind
// '!' or '-', where a part of a name such as AES128 will do. What does not exist
// here is passed over, as OpenSSL does.
func cipherSuites(list string) []uint16 {
	all := append(tls.CipherSuites(), tls.InsecureCipherSuites()...)
	var chosen []uint16
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(": ,", r) }) {
		out, drop := strings.CutPrefix(word, "!")
		if !drop {
			out, drop = strings.CutPrefix(word, "-")
		}
		for _, suite := range all {
			name := opensslName(suite.Name)
			switch {
			case !slices.Contains(suite.SupportedVersions, tls.VersionTLS12): // tls-ciphersuites is for those
			case drop && strings.Contains(name, out):
				chosen = slices.DeleteFunc(chosen, func(id uint16) bool { return id == suite.ID })
			case !drop && (name == word || !suite.Insecure && isClassWord(word)) && !slices.Contains(chosen, suite.ID):
				chosen = append(chosen, suite.ID)
			}
		}
	}
	return chosen
}

func isClassWord(w string) bool { return w == "DEFAULT" || w == "ALL" || w == "HIGH" }

var opensslWords = strings.NewReplacer("TLS_RSA_WITH_", "", "TLS_", "", "_WITH_", "-", "AES_128", "AES128", "AES_256", "AES256",
	"_CBC_", "-", "CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305", "_", "-")

// opensslName turns TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 into
// ECDHE-RSA-AES128-GCM-SHA256.
func opensslName(s string) string { return opensslWords.Replace(s) }
