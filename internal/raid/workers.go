package raid

import "sync"

// workers runs the members' operations of one step at the same time. A worker
// that has once been started waits for more, so that a sync costs no new
// goroutine. The zero value is ready; in order, that is with serial set, nothing
// runs elsewhere.
type workers struct {
	serial bool
	tasks  chan func()
	quit   chan struct{}
	wg     sync.WaitGroup
}

func newWorkers(serial bool) *workers {
	return &workers{serial: serial, tasks: make(chan func()), quit: make(chan struct{})}
}

// start runs fn on a worker that is idle, or on a new one.
func (w *workers) start(fn func()) {
	select {
	case w.tasks <- fn:
	default:
		w.wg.Add(1)
		go w.work(fn)
	}
}

func (w *workers) work(fn func()) {
	defer w.wg.Done()
	for {
		fn()
		select {
		case fn = <-w.tasks:
		case <-w.quit:
			return
		}
	}
}

// each calls fn for every slot in set, in order, or at the same time, the last one
// here, and returns when all are done.
func (w *workers) each(set uint32, fn func(slot int)) {
	if set == 0 {
		return
	}
	if w.serial || set&(set-1) == 0 {
		for s := range slots(set) {
			fn(s)
		}
		return
	}
	var wg sync.WaitGroup
	last := -1
	for s := range slots(set) {
		if last >= 0 {
			n := last
			wg.Add(1)
			w.start(func() { defer wg.Done(); fn(n) })
		}
		last = s
	}
	fn(last)
	wg.Wait()
}

// close ends the workers; no task may be running or come.
func (w *workers) close() {
	close(w.quit)
	w.wg.Wait()
}
