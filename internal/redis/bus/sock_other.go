//go:build !linux

package bus

import (
	"errors"
	"net"
)

// socket exists on Linux only; elsewhere connections are used as they are.
type socket struct{}

func rawSocket(net.Conn) *socket { return nil }

func (*socket) read() (*[readSize]byte, int, error) { return nil, 0, errors.ErrUnsupported }

func (*socket) write(queue [][]byte) ([][]byte, int64, error) { return queue, 0, errors.ErrUnsupported }

func (*socket) writeSome(queue [][]byte) ([][]byte, int64, error) {
	return queue, 0, errors.ErrUnsupported
}
