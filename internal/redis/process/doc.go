// Package process acts: it is what a server's and a Sentinel's process have in
// common, so that both obey the directives about it in the same way. Nothing in
// it knows of commands or of data.
//
//	log.go         the log: a file, standard output, syslog
//	tls.go         what the tls-* directives mean, for accepting and for connecting
//	dial.go        connecting: source address, timeout, TLS
//	listen.go      bind, port, unixsocket and the socket's own options
//	supervise.go   systemd and upstart
//	pidfile.go     the file with the process id
//
//	log, err := process.NewLogger(process.LogOptions{Config: cfg, Role: role})
//	ln, err := process.ListenTCP(cfg, "tcp4", "127.0.0.1:6379")
package process
