package process

//lint:file-ignore ST1005 the wording is that of Redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/redis/config"
)

// DeniedText is what protected mode says to a client that it turns away.
const DeniedText = "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. " +
	"In this mode connections are only accepted from the loopback interface. If you want to connect from external computers to Redis you may adopt one of the following solutions: " +
	"1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Redis from the same host the server is running, " +
	"however MAKE SURE Redis is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make this change permanent. " +
	"2) Alternatively you can just disable the protected mode by editing the Redis configuration file, and setting the protected mode option to 'no', and then restarting the server. " +
	"3) If you started the server manually just for testing, restart it with the '--protected-mode no' option. " +
	"4) Setup a an authentication password for the default user. " +
	"NOTE: You only need to do one of the above things in order for the server to start accepting connections from the outside.\r\n"

// CrowdedText is what a client gets to see that exceeds maxclients.
const CrowdedText = "-ERR max number of clients reached\r\n"

// IsLoopback reports whether addr, an address with its port, is one of this
// machine's own.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// BindAddress reads an address of bind: "*" is every one of IPv4, "::*" of
// IPv6, and one behind '-' may be missing.
func BindAddress(bind string) (network, addr string, optional bool) {
	addr, optional = strings.CutPrefix(bind, "-")
	switch {
	case addr == "*":
		return "tcp4", "0.0.0.0", optional
	case addr == "::*":
		return "tcp6", "::", optional
	case strings.Contains(addr, ":"):
		return "tcp6", addr, optional
	}
	return "tcp4", addr, optional
}

// ListenError says that a port could not be listened on, in the words of Redis.
type ListenError struct {
	Port int
	Err  error // nil: every address was one that may be missing
}

func (e *ListenError) Error() string {
	return fmt.Sprintf("Failed listening on port %d (TCP), aborting.", e.Port)
}

func (e *ListenError) Unwrap() error { return e.Err }

// EachBind calls open for all addresses of bind at a port. Failures are logged.
// An address may be missing if it is optional, or if the machine lacks its
// family, IPv6 that is; the first other failure ends it.
func EachBind(cfg *config.Config, port int, log *Logger, open func(network, where string) error) error {
	opened := 0
	for _, bind := range cfg.Bind {
		network, addr, optional := BindAddress(bind)
		err := open(network, net.JoinHostPort(addr, strconv.Itoa(port)))
		if err == nil {
			opened++
			continue
		}
		log.Warning("Warning: Could not create server TCP listening socket %s:%d: %s", strings.TrimPrefix(bind, "-"), port, BindText(err))
		if optional && errors.Is(err, unix.EADDRNOTAVAIL) || noSuchFamily(err) {
			continue
		}
		return &ListenError{Port: port, Err: err}
	}
	if opened == 0 && len(cfg.Bind) > 0 {
		return &ListenError{Port: port}
	}
	return nil
}

// noSuchFamily reports whether the machine knows nothing of such addresses.
func noSuchFamily(err error) bool {
	for _, e := range []error{unix.EAFNOSUPPORT, unix.ENOPROTOOPT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.EPFNOSUPPORT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// BindText words an error of listening as Redis does.
func BindText(err error) string {
	var no syscall.Errno
	var name *net.DNSError
	switch {
	case errors.As(err, &no) && no != 0:
		text := no.Error()
		return "bind: " + strings.ToUpper(text[:1]) + text[1:]
	case errors.As(err, &name) && name.IsNotFound:
		return "Name or service not known"
	}
	return err.Error()
}

// ListenTCP listens at an address with its port, with socket-mark-id and
// tcp-backlog as configured.
func ListenTCP(cfg *config.Config, network, where string) (*net.TCPListener, error) {
	mark := cfg.SocketMarkID
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		if mark == 0 {
			return nil
		}
		return onSocket(raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
	}}
	ln, err := lc.Listen(context.Background(), network, where)
	if err != nil {
		return nil, err
	}
	tl := ln.(*net.TCPListener)
	// The backlog of the language's listener is the kernel's; ask again for ours.
	raw, err := tl.SyscallConn()
	if err == nil {
		err = onSocket(raw, func(fd int) error { return unix.Listen(fd, cfg.TCPBacklog) })
	}
	if err != nil {
		return nil, errors.Join(err, tl.Close())
	}
	return tl, nil
}

func onSocket(raw syscall.RawConn, fn func(fd int) error) error {
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// ListenUnix listens at unixsocket, with the permissions of unixsocketperm. A
// socket that is left of an earlier run goes.
func ListenUnix(cfg *config.Config) (*net.UnixListener, error) {
	path := cfg.UnixSocket
	_ = os.Remove(path) // if it cannot go, listening says so
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("Opening Unix socket: %w", err)
	}
	ul := ln.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // RemoveUnixSocket says so when it goes
	if perm := cfg.UnixSocketPerm; perm != 0 {
		if err := os.Chmod(path, os.FileMode(perm)); err != nil {
			return nil, errors.Join(fmt.Errorf("Opening Unix socket: %w", err), ul.Close())
		}
	}
	return ul, nil
}
