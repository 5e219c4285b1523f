package keyspace

import "golang.org/x/sys/unix"

// mapReserve maps n bytes that use no memory until they are touched.
func mapReserve(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
}

func unmap(mem []byte) error { return unix.Munmap(mem) }

// release gives the pages of mem, which must begin at a page, back to the
// system; they read as zero afterwards. A refusal only costs memory.
func release(mem []byte) { _ = unix.Madvise(mem, unix.MADV_DONTNEED) }

// zeroPages is release for the sake of the zeros: false means that it was
// refused.
func zeroPages(mem []byte) bool { return unix.Madvise(mem, unix.MADV_DONTNEED) == nil }
