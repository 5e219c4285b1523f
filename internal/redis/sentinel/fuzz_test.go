package sentinel

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A hello message comes from anybody who can publish on a server: what is
// accepted must be fit to stand in sentinel.conf and to be sent on.
func FuzzHello(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add("127.0.0.1,26379," + id + ",1,mymaster,127.0.0.1,6379,1")
	f.Add("host.example,26379," + id + ",18446744073709551615,m,::1,0,-1")
	f.Add(",,,,,,,")
	f.Add("::%\r,1," + id + ",0,m,::1%\"x y\",1,0") // a zone may hold anything
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHello(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(h.runID+h.host+h.masterHost, " \t\r\n\"'\\,") || h.port < 1 || h.port > 65535 ||
			h.masterPort < 1 || h.masterPort > 65535 || h.currentEpoch >= maxEpoch || h.configEpoch >= maxEpoch {
			t.Fatalf("accepted %q as %+v", s, h)
		}
	})
}

// INFO comes from a server that may be anything.
func FuzzInfo(f *testing.F) {
	f.Add("run_id:" + strings.Repeat("1", 40) + "\r\nrole:master\r\nslave0:ip=1.2.3.4,port=6379,state=online\r\n")
	f.Add("role:slave\r\nmaster_host:h\r\nmaster_port:-1\r\nmaster_link_down_since_seconds:99999999999999999999\r\nslave_repl_offset:-5\r\n")
	f.Add("slave0:1.2.3.4,6379,online\nslave1:,,\nslave2:ip=,port=70000")
	f.Fuzz(func(t *testing.T, s string) {
		r := parseInfo(s)
		for _, a := range r.replicas {
			if a.Host == "" || a.Port < 1 || a.Port > 65535 {
				t.Fatalf("accepted replica %+v", a)
			}
		}
		if r.linkDown < -time.Second || (r.runID != "" && len(r.runID) != runIDLen) {
			t.Fatalf("read %+v", r)
		}
	})
}

// What is read from sentinel.conf is written back so that it reads the same.
func FuzzDirectives(f *testing.F) {
	f.Add("monitor m 127.0.0.1 6379 2\ndown-after-milliseconds m 500\nauth-pass m secret\nknown-replica m 127.0.0.1 6380")
	f.Add("resolve-hostnames yes\nmonitor m host 6379 1\nrename-command m CONFIG \"\"\nsentinel-user a\nsentinel-pass b")
	f.Add("myid " + strings.Repeat("f", 40) + "\ncurrent-epoch 7\nannounce-ip 1.2.3.4\nannounce-port 5\nmonitor m 1.2.3.4 1 1\n" +
		"known-sentinel m 1.2.3.5 26379 " + strings.Repeat("e", 40) + "\nconfig-epoch m 3\nleader-epoch m 4\nmaster-reboot-down-after-period m 5")
	f.Fuzz(func(t *testing.T, s string) {
		cfg := NewConfig()
		for _, l := range strings.Split(s, "\n") {
			if a := strings.Fields(l); len(a) > 0 {
				_ = cfg.Apply(a, nil) // most of these lines are wrong
			}
		}
		for _, w := range append([]string{cfg.MyID, cfg.AnnounceIP, cfg.SentinelUser, cfg.SentinelPass}, words(cfg)...) {
			if strings.ContainsAny(w, "\"'\\#") || strings.ContainsFunc(w, func(r rune) bool { return r < ' ' || r > '~' }) {
				return // quoted in the file, which is the file parser's matter
			}
		}
		again := NewConfig()
		lines := cfg.Lines()
		for phase := 0; phase <= 2; phase++ {
			for _, l := range lines {
				a := strings.Fields(strings.ReplaceAll(l.Text, `"`, ""))[1:]
				if LoadPhase(a) != phase || (a[0] == "myid" && len(a) == 1) {
					continue
				}
				if err := again.Apply(a, nil); err != nil {
					t.Fatalf("cannot read back %q: %v", l.Text, err)
				}
			}
		}
		if a, b := render2(again), render2(cfg); a != b {
			t.Fatalf("read back as\n%s\nwas\n%s", a, b)
		}
	})
}

func words(c *Config) []string {
	var w []string
	for _, m := range c.Masters {
		w = append(w, m.Name, m.Host, m.AuthPass, m.AuthUser, m.NotificationPath, m.ReconfigPath)
		for _, r := range m.RenamedCommands {
			w = append(w, r.From, r.To)
		}
		for _, s := range m.Sentinels {
			w = append(w, s.Host, s.RunID)
		}
		for _, r := range m.Replicas {
			w = append(w, r.Host)
		}
	}
	return w
}

func render2(c *Config) string {
	var b strings.Builder
	for _, l := range c.Lines() {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// Whatever the others say, the core neither panics nor spins nor loses its order.
func FuzzHostilePeers(f *testing.F) {
	f.Add("PONG", "role:master\r\nslave0:ip=1.2.3.4,port=5,state=online\r\n", "1.2.3.4,5,x,1,m,1.2.3.4,6,1", "SENTINEL MASTERS", uint64(1))
	f.Add("-BUSY", "role:slave\r\nmaster_host:m\r\n", "1.2.3.4,5,"+strings.Repeat("b", 40)+",9,m,10.0.0.2,6379,9", "SENTINEL IS-MASTER-DOWN-BY-ADDR 10.0.0.1 6379 99 x", uint64(2))
	f.Fuzz(func(t *testing.T, reply, info, hello, command string, seed uint64) {
		cfg := NewConfig()
		m := newMasterConfig("m", "10.0.0.1", 6379, 1)
		m.DownAfter = time.Second
		m.Replicas = []Addr{{Host: "10.0.0.2", Port: 6379}}
		m.Sentinels = []Peer{{Host: "10.0.0.8", Port: 26379, RunID: strings.Repeat("b", 40)}}
		cfg.Masters = append(cfg.Masters, m)
		now := time.Unix(1e9, 0)
		rng := rand.New(rand.NewPCG(seed, 1))
		c, err := New(now, cfg, Options{Rand: rand.New(rand.NewPCG(seed, 2))})
		if err != nil {
			t.Fatal(err)
		}
		var ids []ConnID
		take := func(effects []Effect) {
			for _, e := range effects {
				if k, ok := e.(Connect); ok {
					ids = append(ids, k.Conn)
				}
			}
		}
		take(c.Start(now))
		values := []Value{status(reply), errValue(reply), bulk(info), integer(1), array(integer(1), bulk(reply), integer(int64(seed))),
			{Kind: Null}, array(), mapValue()}
		for i := 0; i < 300; i++ {
			now = now.Add(time.Duration(rng.IntN(400)) * time.Millisecond)
			id := ids[rng.IntN(len(ids))]
			var in Input = Timer{}
			switch rng.IntN(8) {
			case 0, 1:
				in = ConnUp{Conn: id, LocalIP: "10.0.0.9", RemoteIP: "10.0.0.1"}
			case 2:
				in = ConnDown{Conn: id, Err: reply}
			case 3, 4, 5:
				in = ReplyIn{Conn: id, Reply: values[rng.IntN(len(values))]}
			case 6:
				in = PubsubActivity{Conn: id, Payload: hello}
			case 7:
				in = Command{Client: 1, Args: strings.Fields(command)}
			}
			take(c.Step(now, in))
			if len(ids) > 5000 {
				t.Fatal("connects without end")
			}
			for _, m := range c.masters {
				if m.configEpoch > c.currentEpoch || m.leaderEpoch > c.currentEpoch {
					t.Fatalf("epochs out of order: config %d leader %d current %d", m.configEpoch, m.leaderEpoch, c.currentEpoch)
				}
			}
		}
	})
}
