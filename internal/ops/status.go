package ops

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/internal/redis/resp"
)

// Verdict is how a deployment is; its value is the exit code of `status`.
type Verdict int

// Verdicts.
const (
	Healthy Verdict = iota
	Degraded
	Down
)

func (v Verdict) String() string { return [...]string{"healthy", "degraded", "down"}[v] }

// MarshalText implements encoding.TextMarshaler.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Row is one process of a deployment.
type Row struct {
	Addr   string `json:"addr"`
	Role   string `json:"role"`  // master, replica, sentinel, ?
	State  string `json:"state"` // ok, or what is wrong
	Offset string `json:"offset,omitempty"`
	Lag    string `json:"lag,omitempty"` // bytes behind the master
	Keys   string `json:"keys,omitempty"`
	Memory string `json:"memory,omitempty"`
	Uptime string `json:"uptime,omitempty"`
	Array  string `json:"array,omitempty"` // level, state and members of the disk array
	Slots  string `json:"slots,omitempty"` // of a cluster node: those it owns, or whose replica it is
	ok     bool
	offset int64
	epoch  string
	sees   string // a Sentinel's master
	knows  string // a Sentinel's number of replicas / of Sentinels
}

// Status is what `status` prints.
type Status struct {
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	Master  string  `json:"master"`
	Slots   int     `json:"slots_covered,omitempty"` // of a cluster
	Rows    []*Row  `json:"members"`
	rowOf   map[string]*clusterNode
}

// asker puts questions to members.
type asker struct {
	by      Access
	timeout time.Duration // of each question
}

// dial connects. A member that does not take the password may want none: most
// Sentinels have none, and what others refuse, they say at the first question.
func (q asker) dial(addr string) (*client, error) {
	c, err := dialNode(addr, q.timeout, q.by)
	var refused resp.ReplyError
	if errors.As(err, &refused) {
		return dialNode(addr, q.timeout, Access{TLS: q.by.TLS})
	}
	return c, err
}

// StatusOf asks around from the given addresses: any one member, a data server
// or a Sentinel, is enough. timeout bounds each question.
func StatusOf(addrs []string, timeout time.Duration, by Access) *Status {
	q := asker{by, timeout}
	if slices.ContainsFunc(addrs, q.isCluster) {
		return q.clusterStatus(addrs, 0)
	}
	servers, sentinels := q.discover(addrs)
	return q.judge(servers, sentinels, 0, 0)
}

// Status asks all members of a deployment; timeout bounds each question.
func (d *Deployment) Status(timeout time.Duration, by Access) *Status {
	q := asker{by, timeout}
	if d.Mode == modeCluster {
		return q.clusterStatus(d.addrs(), len(d.Members))
	}
	var servers, sentinels []string
	for _, m := range d.Members {
		if m.Kind == kindSentinel {
			sentinels = append(sentinels, m.Addr())
		} else {
			servers = append(servers, m.Addr())
		}
	}
	return q.judge(servers, sentinels, len(servers), len(sentinels))
}

// discover finds all members from any of the addresses.
func (q asker) discover(addrs []string) (servers, sentinels []string) {
	seen := map[string]bool{}
	add := func(list *[]string, addr string) {
		if addr != "" && !seen[addr] {
			seen[addr] = true
			*list = append(*list, addr)
		}
	}
	for _, addr := range addrs {
		c, err := q.dial(addr)
		if err != nil {
			add(&servers, addr)
			continue
		}
		info, err := c.info("server")
		if err == nil && info["redis_mode"] == "sentinel" {
			add(&sentinels, addr)
			fromSentinel(c, func(s string) { add(&servers, s) }, func(s string) { add(&sentinels, s) })
		} else {
			q.fromServer(c, addr, func(s string) { add(&servers, s) }, func(s string) { add(&sentinels, s) })
		}
		c.close()
	}
	return servers, sentinels
}

func fromSentinel(c *client, server, sentinel func(string)) {
	masters, err := c.do("SENTINEL", "MASTERS")
	if err != nil {
		return
	}
	for _, e := range masters.Elems {
		m := pairs(e)
		server(net.JoinHostPort(m["ip"], m["port"]))
		for what, fn := range map[string]func(string){"REPLICAS": server, "SENTINELS": sentinel} {
			list, err := c.do("SENTINEL", what, m["name"])
			if err != nil {
				continue
			}
			for _, r := range list.Elems {
				p := pairs(r)
				fn(net.JoinHostPort(p["ip"], p["port"]))
			}
		}
	}
}

// fromServer goes to the master, if need be, and asks it for its replicas; the
// Sentinels are those that say hello on it within their period of 2 s.
func (q asker) fromServer(c *client, addr string, server, sentinel func(string)) {
	for range 8 { // chains of replicas end
		info, err := c.info("replication")
		if err != nil {
			server(addr)
			return
		}
		if info["role"] != "slave" {
			break
		}
		server(addr)
		addr = net.JoinHostPort(info["master_host"], info["master_port"])
		up, err := q.dial(addr)
		if err != nil {
			server(addr)
			return
		}
		defer up.close()
		c = up
	}
	server(addr)
	info, err := c.info("replication")
	if err != nil {
		return
	}
	for k, v := range info {
		if strings.HasPrefix(k, "slave") && strings.Contains(v, "ip=") {
			f := fields(v)
			server(net.JoinHostPort(f["ip"], f["port"]))
		}
	}
	q.listenHello(addr, sentinel)
}

func fields(s string) map[string]string {
	m := map[string]string{}
	for _, p := range strings.Split(s, ",") {
		if k, v, ok := strings.Cut(p, "="); ok {
			m[k] = v
		}
	}
	return m
}

const helloPeriod = 2300 * time.Millisecond

func (q asker) listenHello(addr string, sentinel func(string)) {
	c, err := q.dial(addr)
	if err != nil {
		return
	}
	defer c.close()
	if _, err := c.do("SUBSCRIBE", "__sentinel__:hello"); err != nil {
		return
	}
	if err := c.nc.SetReadDeadline(time.Now().Add(helloPeriod)); err != nil {
		return
	}
	for {
		v, err := c.r.Read()
		if err != nil {
			return
		}
		if len(v.Elems) == 3 {
			if f := strings.Split(v.Elems[2].String(), ","); len(f) >= 2 {
				sentinel(net.JoinHostPort(f[0], f[1]))
			}
		}
	}
}

// judge asks every member and gives the verdict. wantServers and wantSentinels
// are how many there should be, 0 if that is not known.
func (q asker) judge(servers, sentinels []string, wantServers, wantSentinels int) *Status {
	st := &Status{}
	rows := make(chan *Row)
	for _, a := range servers {
		go func() { rows <- q.serverRow(a) }()
	}
	for _, a := range sentinels {
		go func() { rows <- q.sentinelRow(a) }()
	}
	for range len(servers) + len(sentinels) {
		st.Rows = append(st.Rows, <-rows)
	}
	order := map[string]int{"master": 0, "replica": 1, "?": 2, "sentinel": 3}
	sort.Slice(st.Rows, func(i, j int) bool {
		a, b := st.Rows[i], st.Rows[j]
		if order[a.Role] != order[b.Role] {
			return order[a.Role] < order[b.Role]
		}
		return a.Addr < b.Addr
	})
	st.decide(wantServers, wantSentinels)
	return st
}

func (st *Status) decide(wantServers, wantSentinels int) {
	var masters []*Row
	var bad []string
	sentinels, seeing := 0, 0
	for _, r := range st.Rows {
		switch {
		case r.Role == "master":
			masters = append(masters, r)
		case r.Role == "sentinel":
			sentinels++
		}
		if !r.ok {
			bad = append(bad, r.Addr+" "+r.State)
		}
	}
	master := electMaster(masters, st.Rows)
	if master == nil {
		st.Verdict, st.Reason = Down, "no master answers"
		return
	}
	st.Master = master.Addr
	for _, r := range st.Rows {
		if r.Role == "replica" && r.ok {
			r.Lag = strconv.FormatInt(max(0, master.offset-r.offset), 10)
		}
		if r.Role == "sentinel" && r.ok && r.sees != "" {
			seeing++
			if r.sees != master.Addr {
				bad = append(bad, r.Addr+" takes "+r.sees+" for the master")
			}
		}
	}
	if len(masters) > 1 {
		bad = append(bad, fmt.Sprintf("%d servers say that they are masters", len(masters)))
	}
	if sentinels > 0 && seeing <= sentinels/2 {
		bad = append(bad, "no majority of Sentinels answers: no failover is possible")
	}
	for _, r := range st.Rows {
		if r.Role == "sentinel" && r.ok && wantServers > 0 {
			if want := fmt.Sprintf("%d/%d", wantServers-1, wantSentinels); r.knows != want {
				bad = append(bad, fmt.Sprintf("%s knows %s of %s replicas/Sentinels", r.Addr, r.knows, want))
			}
		}
	}
	if len(bad) > 0 {
		st.Verdict, st.Reason = Degraded, strings.Join(bad, "; ")
		return
	}
	st.Reason = fmt.Sprintf("%d servers, %d Sentinels, all agree", len(st.Rows)-sentinels, sentinels)
}

// electMaster is the master that most Sentinels name; without Sentinels, any.
func electMaster(masters []*Row, rows []*Row) *Row {
	votes := map[string]int{}
	for _, r := range rows {
		if r.sees != "" {
			votes[r.sees]++
		}
	}
	var best *Row
	for _, m := range masters {
		if best == nil || votes[m.Addr] > votes[best.Addr] {
			best = m
		}
	}
	return best
}

func (q asker) serverRow(addr string) *Row {
	r := &Row{Addr: addr, Role: "?"}
	c, err := q.dial(addr)
	if err != nil {
		r.State = plain(err)
		return r
	}
	defer c.close()
	info, err := c.info("server", "replication", "memory", "keyspace", "persistence", "array")
	if err != nil {
		r.State = plain(err)
		return r
	}
	r.Memory, r.Uptime = info["used_memory_human"], uptime(info["uptime_in_seconds"])
	r.Keys = keyCount(info)
	r.Offset = info["master_repl_offset"]
	r.offset, _ = strconv.ParseInt(r.Offset, 10, 64) // what is no number counts as 0
	r.Role, r.State = "master", "ok"
	if info["role"] == "slave" {
		r.Role = "replica"
		switch {
		case info["master_sync_in_progress"] == "1":
			r.State = "full sync running"
		case info["master_link_status"] != "up":
			r.State = "link to " + net.JoinHostPort(info["master_host"], info["master_port"]) + " is down"
		}
	}
	if info["loading"] == "1" {
		r.State = "loading"
	}
	if info["aof_last_write_status"] == "err" {
		r.State = "journal cannot be written"
	}
	r.array(info)
	r.ok = r.State == "ok"
	return r
}

// array reads the state of a server's disk array. A server whose array has lost
// a member is not well: the next loss may be one too many.
func (r *Row) array(info map[string]string) {
	if info["array_enabled"] != "1" {
		return
	}
	r.Array = fmt.Sprintf("RAID-%s %s %s/%s", info["array_level"], info["array_state"], info["array_members_live"], info["array_members"])
	if info["array_rebuild_in_progress"] == "1" {
		done, _ := strconv.ParseFloat(info["array_rebuild_done_bytes"], 64) // absent counts as none
		total, _ := strconv.ParseFloat(info["array_rebuild_total_bytes"], 64)
		r.Array += fmt.Sprintf(" (%.0f%%)", done*100/max(total, 1))
	}
	if info["array_state"] != "healthy" && r.State == "ok" {
		r.State = "array " + info["array_state"]
	}
}

func keyCount(info map[string]string) string {
	n := 0
	for k, v := range info {
		if strings.HasPrefix(k, "db") && strings.HasPrefix(v, "keys=") {
			if x, err := strconv.Atoi(fields(v)["keys"]); err == nil {
				n += x
			}
		}
	}
	return strconv.Itoa(n)
}

func (q asker) sentinelRow(addr string) *Row {
	r := &Row{Addr: addr, Role: "sentinel"}
	c, err := q.dial(addr)
	if err != nil {
		r.State = plain(err)
		return r
	}
	defer c.close()
	info, err := c.info("server")
	var v resp.Value
	if err == nil {
		v, err = c.do("SENTINEL", "MASTERS")
	}
	if err != nil {
		r.State = plain(err)
		return r
	}
	r.Uptime = uptime(info["uptime_in_seconds"])
	if len(v.Elems) == 0 {
		r.State = "watches no master"
		return r
	}
	m := pairs(v.Elems[0])
	r.sees = net.JoinHostPort(m["ip"], m["port"])
	r.epoch = m["config-epoch"]
	others, _ := strconv.Atoi(m["num-other-sentinels"]) // absent counts as none
	r.knows = fmt.Sprintf("%s/%d", m["num-slaves"], others+1)
	r.State = "ok"
	if m["flags"] != "master" {
		r.State = "sees the master as " + m["flags"]
	}
	r.ok = r.State == "ok"
	return r
}

// plainRefused is the state of a process that has gone.
const plainRefused = "down: nobody listens"

func plain(err error) string {
	var dns *net.DNSError
	var addr *net.AddrError
	switch e, ok := err.(net.Error); {
	case errors.As(err, &dns):
		return "no such host"
	case errors.As(err, &addr):
		return addr.Err // such as a port that is none
	case ok && e.Timeout():
		return "no answer"
	case refused(err):
		return plainRefused
	case isReply(err, "NOAUTH"):
		return errNoPassword.Error()
	case err == io.EOF:
		return "hangs up without an answer; is this a cluster bus, or TLS?"
	}
	return err.Error()
}

func uptime(seconds string) string {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return ""
	}
	return (time.Duration(n) * time.Second).String()
}

// WriteTable prints one row per member, then the verdict.
func (st *Status) WriteTable(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head, arrays := "", slices.ContainsFunc(st.Rows, func(r *Row) bool { return r.Array != "" })
	slots := slices.ContainsFunc(st.Rows, func(r *Row) bool { return r.Slots != "" })
	if slots {
		head = "\tSLOTS"
	}
	if arrays {
		head += "\tARRAY"
	}
	fmt.Fprintln(tw, "ADDRESS\tROLE\tSTATE\tOFFSET\tLAG\tKEYS\tMEMORY\tUPTIME"+head)
	for _, r := range st.Rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", r.Addr, r.Role, r.State, dash(r.Offset), dash(r.Lag), dash(r.Keys), dash(r.Memory), dash(r.Uptime))
		if slots {
			fmt.Fprintf(tw, "\t%s", dash(r.Slots))
		}
		if arrays {
			fmt.Fprintf(tw, "\t%s", dash(r.Array))
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush() // an error of the terminal has nobody to be told
	fmt.Fprintf(w, "%s: %s\n", strings.ToUpper(st.Verdict.String()), st.Reason)
}

// silent says that there is nobody to be heard from.
func (st *Status) silent() bool {
	return !slices.ContainsFunc(st.Rows, func(r *Row) bool { return r.State != plainRefused })
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// WriteJSON prints the same for scripts.
func (st *Status) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(st)
}
