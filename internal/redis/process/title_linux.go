package process

import "unsafe"

// argsArea returns the memory that holds args, which the kernel has laid one
// behind the other, each with a zero; nil if it is not so.
func argsArea(args []string) []byte {
	if len(args) == 0 || args[0] == "" {
		return nil
	}
	first := unsafe.StringData(args[0])
	size := 0
	for _, arg := range args {
		// Of an empty string nothing tells where it lies.
		if arg != "" && uintptr(unsafe.Pointer(unsafe.StringData(arg))) != uintptr(unsafe.Pointer(first))+uintptr(size) {
			return nil
		}
		size += len(arg) + 1
	}
	return unsafe.Slice(first, size-1)
}
