//go:build linux

package server

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The three calls of the tick that never block are made without telling the
// scheduler, which costs more than some of them do. Sockets here are always
// non-blocking.

func readFD(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, unix.EAGAIN
	}
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func writeFD(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func epollPoll(ep int, events []unix.EpollEvent) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// statm is opened once: it is read every second, whatever else there is to do.
var statm = sync.OnceValue(func() int {
	fd, err := unix.Open("/proc/self/statm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
})

// readProcess reads the sizes of this process, in pages; 0 bytes if it cannot.
func readProcess(b []byte) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(statm()), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
