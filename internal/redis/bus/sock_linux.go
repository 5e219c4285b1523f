//go:build linux

package bus

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// socket is a connection whose bytes go in and out by bare system calls. They
// never block, as the socket does not; telling the scheduler of each costs more
// than some of them do, and wakes a thread that watches it.
type socket struct{ rc syscall.RawConn }

// rawSocket is nil for connections that are not sockets themselves.
func rawSocket(conn net.Conn) *socket {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return nil // closed: to use it tells more
	}
	return &socket{rc}
}

// read waits for bytes and returns them in a buffer of readBuffers, which is the
// caller's; nil if there are none. At the end of the stream it fails with io.EOF.
func (s *socket) read() (buf *[readSize]byte, n int, err error) {
	var errno syscall.Errno
	waited := s.rc.Read(func(fd uintptr) bool {
		buf = readBuffers.Get().(*[readSize]byte)
		for {
			var got uintptr
			got, _, errno = syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&buf[0])), readSize)
			if n = int(got); errno != syscall.EINTR {
				break
			}
		}
		if errno == syscall.EAGAIN {
			readBuffers.Put(buf)
			buf = nil
			return false
		}
		return true
	})
	switch {
	case waited != nil:
		return buf, 0, waited
	case errno != 0:
		return buf, 0, &net.OpError{Op: "read", Net: "tcp", Err: errno}
	case n == 0:
		return buf, 0, io.EOF
	}
	return buf, n, nil
}

// write writes what the socket takes at once. It returns what is left, and how
// many bytes went out. The packets themselves are not changed.
func (s *socket) write(queue [][]byte) (rest [][]byte, sent int64, err error) {
	return s.push(queue, false)
}

// writeSome is write that waits until the socket takes something.
func (s *socket) writeSome(queue [][]byte) (rest [][]byte, sent int64, err error) {
	return s.push(queue, true)
}

func (s *socket) push(queue [][]byte, wait bool) (rest [][]byte, sent int64, err error) {
	var errno syscall.Errno
	err = s.rc.Write(func(fd uintptr) bool {
		for len(queue) > 0 {
			p := queue[0]
			if len(p) == 0 {
				queue = queue[1:]
				continue
			}
			var n uintptr
			n, _, errno = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
			if errno == syscall.EINTR {
				continue
			}
			if errno != 0 {
				break
			}
			sent += int64(n)
			if queue[0] = p[n:]; len(queue[0]) == 0 {
				queue[0] = nil
				queue = queue[1:]
			}
		}
		return !wait || sent > 0 || errno != syscall.EAGAIN
	})
	if err == nil && errno != 0 && errno != syscall.EAGAIN {
		err = &net.OpError{Op: "write", Net: "tcp", Err: errno}
	}
	return queue, sent, err
}
