// Package sentineld acts: it is the process around the state machine of
// package sentinel. It reads and rewrites sentinel.conf, keeps the
// connections to masters, replicas and peers, answers clients, runs scripts,
// and carries out what the core decides.
//
//	err := sentineld.Run(ctx, sentineld.Options{Args: os.Args[1:]})
//
// One goroutine owns the core: loop in loop.go takes one input after the
// other and carries out the effects in order. Everybody else (a reader and a
// writer per link, two per client, one per script) only hands in inputs and
// takes bytes to write. A Persist blocks the loop until the state is on disk;
// nothing that follows it is sent before.
package sentineld
