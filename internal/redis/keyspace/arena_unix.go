//go:build unix && !linux

package keyspace

import "golang.org/x/sys/unix"

// mapReserve maps n bytes that use no memory until they are touched.
func mapReserve(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

func unmap(mem []byte) error { return unix.Munmap(mem) }

// release tells the system that the pages of mem are not needed. A refusal
// only costs memory.
func release(mem []byte) { _ = unix.Madvise(mem, unix.MADV_DONTNEED) }

// zeroPages cannot make pages zero without touching them here.
func zeroPages([]byte) bool { return false }
