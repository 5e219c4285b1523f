package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"holdfast/internal/ops"
)

// accessFlags say how servers are reached.
type accessFlags struct {
	user, pass             string
	tls, insecure          bool
	caCert, cert, key, sni string
}

func (f *accessFlags) register(p *pflag.FlagSet) {
	p.StringVar(&f.user, "user", "", "user name, on all nodes")
	p.StringVarP(&f.pass, "pass", "a", "", "password, on all nodes (or REDISCLI_AUTH in the environment)")
	p.BoolVar(&f.tls, "tls", false, "connect by TLS")
	p.StringVar(&f.caCert, "cacert", "", "file of the authorities that sign the nodes' certificates")
	p.StringVar(&f.cert, "cert", "", "file of the client's certificate")
	p.StringVar(&f.key, "key", "", "file of the client's key")
	p.StringVar(&f.sni, "sni", "", "name that the nodes' certificates must have")
	p.BoolVar(&f.insecure, "insecure", false, "do not verify the nodes' certificates")
}

func (f *accessFlags) access() (by ops.Access, err error) {
	by.User, by.Pass = f.user, f.pass
	if by.Pass == "" {
		by.Pass = os.Getenv("REDISCLI_AUTH")
	}
	by.TLS, err = f.tlsConfig()
	return by, err
}

func (f *accessFlags) tlsConfig() (*tls.Config, error) {
	if !f.tls && f.caCert == "" && f.cert == "" {
		return nil, nil
	}
	c := &tls.Config{ServerName: f.sni, InsecureSkipVerify: f.insecure, MinVersion: tls.VersionTLS12}
	if f.caCert != "" {
		b, err := os.ReadFile(f.caCert)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s holds no certificate", f.caCert)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
