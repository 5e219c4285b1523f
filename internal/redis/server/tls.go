package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/redis/config"
)

// tlsServerConfig builds what tls-* say about accepting.
func (s *Server) tlsServerConfig() (*tls.Config, error) {
	c := s.cfg
	if c.TLSCertFile == "" || c.TLSKeyFile == "" {
		return nil, errors.New("No tls-cert-file and tls-key-file configured!")
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
		return nil, errors.New("Either tls-ca-cert-file or tls-ca-cert-dir must be specified when tls-cluster, tls-replication or tls-auth-clients are enabled!")
	}
	return conf, tlsVersions(conf, c)
}

// tlsClientConfig builds what tls-* say about connecting to others. Like
// Redis, the peer's chain is verified and its name is not.
func (s *Server) tlsClientConfig() (*tls.Config, error) {
	c := s.cfg
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
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool()}
		for _, cert := range cs.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		_, err := cs.PeerCertificates[0].Verify(opts)
		return err
	}
	return conf, tlsVersions(conf, c)
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
	//lint:ignore SA1019 legacy encrypted keys are what tls-key-file-pass is about
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

func tlsVersions(conf *tls.Config, c *config.Config) error {
	conf.MinVersion = tls.VersionTLS12
	if c.TLSProtocols != "" {
		conf.MinVersion, conf.MaxVersion = 0, 0
		known := map[string]uint16{"tlsv1": tls.VersionTLS10, "tlsv1.1": tls.VersionTLS11, "tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13}
		for _, w := range strings.Fields(strings.ToLower(c.TLSProtocols)) {
			v, ok := known[w]
			if !ok {
				return fmt.Errorf("Invalid tls-protocols specified. Use a combination of TLSv1, TLSv1.1, TLSv1.2 and TLSv1.3")
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
	for _, name := range strings.Split(c.TLSCiphers, ":") {
		for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			if opensslName(suite.Name) == name {
				conf.CipherSuites = append(conf.CipherSuites, suite.ID)
			}
		}
	}
	if len(conf.CipherSuites) == 0 {
		return fmt.Errorf("Failed to configure ciphers: none of %q is known", c.TLSCiphers)
	}
	return nil
}

// opensslName turns TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 into
// ECDHE-RSA-AES128-GCM-SHA256.
func opensslName(s string) string {
	s = strings.TrimPrefix(s, "TLS_")
	s = strings.Replace(s, "_WITH_", "_", 1)
	s = strings.ReplaceAll(s, "AES_128", "AES128")
	s = strings.ReplaceAll(s, "AES_256", "AES256")
	return strings.ReplaceAll(strings.TrimPrefix(s, "RSA_AES"), "_", "-")
}
