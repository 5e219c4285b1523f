//go:build linux

package server

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alarm is a timer of the kernel that one goroutine waits for and others may
// set. The runtime's own timers wake a process that idles about six times as
// often: a thread a millisecond early, again at the time, the one that watches
// all, and one that looks for more work.
type alarm struct {
	file *os.File
	conn syscall.RawConn

	mu sync.Mutex
	at time.Time // when it rings; zero: it is not set
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	a := &alarm{file: os.NewFile(uintptr(fd), "timer")}
	if a.conn, err = a.file.SyscallConn(); err != nil {
		_ = a.file.Close()
		return nil, err
	}
	return a, nil
}

// sooner makes the alarm ring at t, unless it rings before.
func (a *alarm) sooner(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.at.IsZero() && !t.Before(a.at) {
		return
	}
	a.at = t
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, int64(time.Until(t))))}
	// An error of Control says that it was closed; settime has none to give.
	_ = a.conn.Control(func(fd uintptr) {
		_, _, _ = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	})
}

// ring makes it ring at once.
func (a *alarm) ring() { a.sooner(time.Now()) }

// wait returns when the alarm rings, or false once it was closed. It is not set
// from then on. Whoever sets it for something records what it is before: the
// waiter looks at that afterwards.
func (a *alarm) wait() bool {
	err := a.conn.Read(func(fd uintptr) bool {
		var expired [8]byte
		_, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&expired[0])), uintptr(len(expired)))
		return errno != unix.EAGAIN
	})
	a.mu.Lock()
	a.at = time.Time{}
	a.mu.Unlock()
	return err == nil
}

func (a *alarm) close() { _ = a.file.Close() }
