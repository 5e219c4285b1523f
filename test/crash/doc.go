// Package crash ends real server processes at random moments and holds what is
// on their disks against what they had acknowledged: nothing acknowledged may be
// missing, and nothing but a prefix of each connection's writes may be there.
//
//	go test ./test/crash/                        30 rounds of kill -9
//	HOLDFAST_SOAK=1 go test -timeout 0 ./test/crash/   200 rounds
//
// Every writer numbers its writes and chooses each by its number alone, so the
// data after k writes is known for every k (model_test.go), and finding it in
// the restarted server says how many survived. kill_test.go kills, damage_test.go
// tears and corrupts files. A failed round keeps its directory and names it;
// "before" in it is the data as the killed process left it.
//
// HOLDFAST_CRASH_BINARY names a binary to test instead of one built from here.
package crash
