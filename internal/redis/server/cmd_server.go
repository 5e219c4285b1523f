package server

import (
	"math"
	"strconv"
	"strings"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/resp"
)

func (s *Server) serverCommands() []command.Spec {
	const saving = command.Admin | command.NoScript | command.NoAsyncLoading
	allNodes := []string{"request_policy:all_nodes", "nondeterministic_output"}
	rows := []command.Spec{
		{Name: "save", Arity: 1, Flags: saving | command.NoMulti, Run: s.cmdSave},
		{Name: "bgsave", Arity: -1, Flags: saving, Run: s.cmdBgsave},
		{Name: "bgrewriteaof", Arity: 1, Flags: saving, Run: s.cmdBgrewriteaof},
		{Name: "lastsave", Arity: 1, Flags: atOnce, Cat: command.CatAdmin | command.CatDangerous, Tips: []string{"nondeterministic_output"}, Run: s.cmdLastsave},
		{Name: "time", Arity: 1, Flags: atOnce, Tips: []string{"nondeterministic_output"}, Run: cmdTime},
		{Name: "lolwut", Arity: -1, Flags: command.ReadOnly | command.Fast, Run: s.cmdLolwut},
		{Name: "monitor", Arity: 1, Flags: adminTime, Run: s.cmdMonitor},
		{Name: "slowlog", Arity: -2, Sub: []*command.Spec{
			{Name: "get", Arity: -2, Flags: command.Admin | command.Loading | command.Stale, Tips: allNodes, Run: cmdSlowlogGet},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Run: cmdSlowlogHelp},
			{Name: "len", Arity: 2, Flags: command.Admin | command.Loading | command.Stale,
				Tips: []string{"request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"}, Run: cmdSlowlogLen},
			{Name: "reset", Arity: 2, Flags: command.Admin | command.Loading | command.Stale,
				Tips: []string{"request_policy:all_nodes", "response_policy:all_succeeded"}, Run: cmdSlowlogReset},
		}},
	}
	rows = append(rows, s.memoryCommands()...)
	rows = append(rows, s.latencyCommands()...)
	rows = append(rows, s.aclCommands()...)
	rows = append(rows, scriptingCommands()...)
	return append(rows, moduleCommands...)
}

// --- SAVE and its kin ---

// savesAlready: a snapshot for replicas counts as a save, as in Redis, and is
// not to be broken off for another one.
func (s *Server) savesAlready() bool { return s.jobIs("dump") || s.jobIs("sync") }

func (s *Server) cmdSave(c *command.Ctx) {
	c.NoPropagate()
	if s.savesAlready() {
		c.Err("ERR Background save already in progress")
		return
	}
	// A checkpoint that runs has to give way; it is made again afterwards.
	again := s.jobIs("checkpoint")
	err := s.saveNow()
	s.persist.ckptScheduled = s.persist.ckptScheduled || again
	if err != nil {
		c.Err("ERR")
		return
	}
	c.OK()
}

func (s *Server) cmdBgsave(c *command.Ctx) {
	c.NoPropagate()
	schedule := len(c.Args) == 2 && c.Is(1, "schedule")
	inExec := c.Client.Has(command.FlagDenyBlocking)
	switch {
	case len(c.Args) > 1 && !schedule:
		c.Err(command.ErrSyntax)
	case s.savesAlready():
		c.Err("ERR Background save already in progress")
	case (s.persist.job != nil && schedule) || inExec:
		s.persist.bgsaveScheduled = true
		c.Simple("Background saving scheduled")
	case s.persist.job != nil:
		c.Err("ERR Another child process is active (AOF?): can't BGSAVE right now. " +
			"Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.")
	case s.startBgsave() != nil:
		c.Err("ERR") // the log has the reason
	default:
		c.Simple("Background saving started")
	}
}

// flushedAll acts on FLUSHALL: a running BGSAVE would bring the data back, and
// so would an old dump.rdb, if save points say that there is to be one. The
// engine's lock is held.
func (s *Server) flushedAll() {
	if s.jobIs("dump") {
		failed := s.persist.lastSaveFailed
		s.persist.job.cancel("the data was flushed")
		s.persist.lastSaveFailed = failed // which is no failure of the disk
		s.updateDiskError()
	}
	switch {
	case len(s.cfg.SavePoints) == 0 || s.e.State.Loading:
	case s.persist.job != nil:
		s.persist.bgsaveScheduled = true
	default:
		_ = s.saveNow() // logged, and seen in INFO
	}
}

// cmdBgrewriteaof makes a checkpoint, behind which the journal is trimmed.
func (s *Server) cmdBgrewriteaof(c *command.Ctx) {
	c.NoPropagate()
	switch {
	case s.jobIs("checkpoint"):
		c.Err("ERR Background append only file rewriting already in progress")
	case s.persist.journal == nil:
		s.log.Warning("BGREWRITEAOF: there is no journal to make a checkpoint of, appendonly is no")
		c.Err("ERR Can't execute an AOF background rewriting. Please check the server logs for more information.")
	case s.persist.job != nil || c.Client.Has(command.FlagDenyBlocking):
		s.persist.ckptScheduled = true
		c.Simple("Background append only file rewriting scheduled")
	default:
		if err := s.startCheckpoint(); err != nil {
			s.log.Warning("Background checkpoint failed: %s", err)
			c.Err("ERR Can't execute an AOF background rewriting. Please check the server logs for more information.")
			return
		}
		c.Simple("Background append only file rewriting started")
	}
}

func (s *Server) cmdLastsave(c *command.Ctx) { c.Int(s.persist.lastSave.Unix()) }

func cmdTime(c *command.Ctx) {
	c.Array(2)
	c.BulkInt(c.E.NowUs / 1e6)
	c.BulkInt(c.E.NowUs % 1e6)
}

// --- MONITOR ---

func (s *Server) cmdMonitor(c *command.Ctx) {
	cl := c.Client
	if cl.Has(command.FlagDenyBlocking) {
		c.Err("ERR MONITOR isn't allowed for DENY BLOCKING client")
		return
	}
	if cl.Has(command.FlagReplica | command.FlagMonitor) {
		return
	}
	k, ok := cl.Conn.(*conn)
	if !ok {
		c.Err("ERR MONITOR needs a connection")
		return
	}
	cl.Flags |= command.FlagMonitor
	s.monitors[k] = struct{}{}
	c.OK()
}

// --- SLOWLOG ---

func cmdSlowlogGet(c *command.Ctx) {
	if len(c.Args) > 3 {
		c.ErrSub()
		return
	}
	count := int64(10)
	if len(c.Args) == 3 {
		var ok bool
		if count, ok = c.IntArgRange(2, -1, math.MaxInt64, "ERR count should be greater than or equal to -1"); !ok {
			return
		}
	}
	entries := c.E.Slow.Entries
	if count >= 0 && count < int64(len(entries)) {
		entries = entries[:count]
	}
	c.Array(len(entries))
	for i := range entries {
		e := &entries[i]
		c.Array(6)
		c.Int(e.ID)
		c.Int(e.TimeSec)
		c.Int(e.Usec)
		c.Array(len(e.Args))
		for _, a := range e.Args {
			c.Bulk(a)
		}
		c.BulkStr(e.Addr)
		c.BulkStr(e.Name)
	}
}

func cmdSlowlogLen(c *command.Ctx) { c.Int(int64(len(c.E.Slow.Entries))) }

func cmdSlowlogReset(c *command.Ctx) {
	c.E.Slow.Trim(0)
	c.OK()
}

func cmdSlowlogHelp(c *command.Ctx) {
	c.Help(strings.Split(`GET [<count>]
    Return top <count> entries from the slowlog (default: 10, -1 mean all).
    Entries are made of:
    id, timestamp, time in microseconds, arguments array, client IP and port,
    client name
LEN
    Return the length of the slowlog.
RESET
    Reset the slowlog.`, "\n")...)
}

// --- LOLWUT ---

func (s *Server) cmdLolwut(c *command.Ctx) {
	version := int64(0)
	args := c.Args[1:]
	if len(args) >= 2 && c.Is(1, "version") {
		n, ok := c.IntArg(2)
		if !ok {
			return
		}
		version, args = n, args[2:]
	}
	nums := make([]int64, 0, 3)
	if version == 5 || version == 6 {
		for i, a := range args {
			n, ok := resp.ParseInt(a)
			if !ok {
				c.Err(command.ErrNotInt)
				return
			}
			if i < 3 {
				nums = append(nums, n)
			}
		}
	}
	art := ""
	switch version {
	case 5:
		art = s.schotter(nums)
	case 6:
		art = s.skyline(nums)
	}
	c.Verbatim("txt", art+"Redis ver. "+Version+"\n")
}

func pick(nums []int64, i int, def, lo, hi int64) int {
	if i < len(nums) {
		def = nums[i]
	}
	return int(min(max(def, lo), hi))
}

// schotter draws squares that fall into disorder from row to row, after Georg
// Nees: LOLWUT 5 [columns] [squares per row] [rows].
func (s *Server) schotter(nums []int64) string {
	cols, perRow, rows := pick(nums, 0, 66, 1, 1000), pick(nums, 1, 8, 1, 200), pick(nums, 2, 12, 1, 200)
	cell := max(3, cols*2/perRow)
	w, h := (cell*perRow+1)/2+2, (cell*rows+3)/4+2
	grid := make([]byte, w*h)
	dot := func(x, y float64) {
		px, py := int(x), int(y)
		if px < 0 || py < 0 || px >= 2*w || py >= 4*h {
			return
		}
		grid[py/4*w+px/2] |= brailleBits[py%4][px%2]
	}
	for r := range rows {
		for q := range perRow {
			mess := float64(r) / float64(rows)
			angle := (s.e.Rand.Float64() - 0.5) * mess * math.Pi / 2
			x := (float64(q) + 0.5 + (s.e.Rand.Float64()-0.5)*mess*0.7) * float64(cell)
			y := (float64(r) + 0.5 + (s.e.Rand.Float64()-0.5)*mess*0.7) * float64(cell)
			drawSquare(dot, x, y, float64(cell)*0.9, angle)
		}
	}
	var b strings.Builder
	for y := range h {
		for x := range w {
			b.WriteRune(0x2800 + rune(grid[y*w+x]))
		}
		b.WriteByte('\n')
	}
	b.WriteString("\nGeorg Nees - schotter, plotter on paper, 1968. ")
	return b.String()
}

// brailleBits are the dots of a Braille character by row and column.
var brailleBits = [4][2]byte{{1, 8}, {2, 16}, {4, 32}, {64, 128}}

func drawSquare(dot func(x, y float64), x, y, side, angle float64) {
	sin, cos := math.Sincos(angle)
	steps := int(side * 2)
	for i := range steps + 1 {
		t := (float64(i)/float64(steps) - 0.5) * side
		for _, e := range [4][2]float64{{t, -side / 2}, {t, side / 2}, {-side / 2, t}, {side / 2, t}} {
			dot(x+e[0]*cos-e[1]*sin, y+e[0]*sin+e[1]*cos)
		}
	}
}

// skyline draws houses with lit windows: LOLWUT 6 [columns] [rows].
func (s *Server) skyline(nums []int64) string {
	w, h := pick(nums, 0, 80, 1, 1000), pick(nums, 1, 20, 1, 1000)
	grid := make([][]byte, h)
	for y := range grid {
		grid[y] = []byte(strings.Repeat(" ", w))
	}
	for x := 0; x < w; {
		width, height := 3+s.e.Rand.IntN(8), 1+s.e.Rand.IntN(h)
		for i := x; i < min(x+width, w); i++ {
			for y := h - height; y < h; y++ {
				grid[y][i] = '#'
				if i > x && i < x+width-1 && (i-x)%2 == 1 && (h-y)%2 == 0 && s.e.Rand.IntN(3) > 0 {
					grid[y][i] = '.'
				}
			}
		}
		x += width + 1
	}
	var b strings.Builder
	for _, line := range grid {
		b.Write(line)
		b.WriteByte('\n')
	}
	b.WriteString("\nDedicated to the 8 bit game developers of past and present. " + strconv.Itoa(w) + "x" + strconv.Itoa(h) + " ")
	return b.String()
}
