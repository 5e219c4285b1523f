// Package server tests the data server's shell with the real binary: what
// happens to connections, at start-up and shutdown, to files, and when a disk
// has no room. What the commands reply is compared elsewhere (test/interop).
//
//	go test ./test/server/
//	HOLDFAST_SOAK=1 go test -timeout 0 ./test/server/    the long forms, too
//
// HOLDFAST_SERVER_BINARY names a binary to test instead of one built from here.
// Where genuine redis-server is installed, files go both ways between the two.
package server
