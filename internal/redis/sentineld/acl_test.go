package sentineld

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func mustSet(t *testing.T, u *users, name, rules string) {
	t.Helper()
	if err := u.set(name, strings.Fields(rules)); err != nil {
		t.Fatalf("%s %s: %v", name, rules, err)
	}
}

// allows reports whether a user may run a request.
func allows(u *users, name, request string) bool {
	args := strings.Fields(request)
	d, _ := u.check(u.get(name), lookup(table, args), args)
	return d == permitted
}

func TestRulesAllowAndForbid(t *testing.T) {
	u := newUsers("", false)
	for _, c := range []struct{ rules, allowed, denied string }{
		{"+ping", "ping", "info,sentinel masters,subscribe x"},
		{"+sentinel", "sentinel masters,sentinel set a b c", "ping,role"},
		{"+sentinel -sentinel|masters", "sentinel master x", "sentinel masters"},
		{"+sentinel|masters", "sentinel masters", "sentinel master x"},
		{"+@all -@admin &*", "ping,subscribe x,info", "sentinel masters,acl list,shutdown"},
		{"+@all", "sentinel masters", "subscribe x,psubscribe *"},
		{"+subscribe +psubscribe &ev*", "subscribe ev1,psubscribe ev*", "subscribe ev1 other,psubscribe e*,psubscribe ev1"},
		{"+ping|hello", "ping hello,ping HELLO", "ping,ping you"},
		{"-@all", "auth x,hello", "ping"}, // who may do nothing may still become somebody else
		{"(+ping) (+info)", "ping,info", "role"},
	} {
		mustSet(t, u, "a", "reset on "+c.rules)
		for _, r := range strings.Split(c.allowed, ",") {
			if !allows(u, "a", r) {
				t.Errorf("%q forbids %q", c.rules, r)
			}
		}
		for _, r := range strings.Split(c.denied, ",") {
			if allows(u, "a", r) {
				t.Errorf("%q allows %q", c.rules, r)
			}
		}
	}
}

func TestLogin(t *testing.T) {
	u := newUsers("secret", false)
	mustSet(t, u, "bob", "on >one >two")
	mustSet(t, u, "off", "off nopass")
	for _, c := range []struct {
		name, pass string
		want       bool
	}{
		{"default", "secret", true}, {"default", "", false}, {"default", "x", false}, {"bob", "one", true}, {"bob", "two", true},
		{"bob", "three", false}, {"nobody", "one", false}, {"off", "x", false},
	} {
		if _, ok := u.login(c.name, c.pass); ok != c.want {
			t.Errorf("login of %s with %q: %v", c.name, c.pass, ok)
		}
	}
	mustSet(t, u, "bob", "<one")
	if _, ok := u.login("bob", "one"); ok {
		t.Error("a password that was taken away still works")
	}
}

// One wrong rule, and none of them counts.
func TestRulesCountTogether(t *testing.T) {
	u := newUsers("", false)
	mustSet(t, u, "a", "on +ping")
	before := u.describe()
	if err := u.set("a", []string{"off", "+info", "+nope"}); !errors.As(err, new(*ruleError)) {
		t.Fatal(err)
	}
	if after := u.describe(); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("a refused change has changed %q to %q", before, after)
	}
}

// Whatever rules are accepted, the description of the user makes the same user
// again, and no rule crashes.
func FuzzRules(f *testing.F) {
	for _, s := range []string{
		"on >p +@all -@dangerous +info", "nopass ~x %R~y &c resetchannels (+ping ~x) ( +@all &x ) off", "+ping|a -ping -@all",
		"#abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789 allkeys allchannels", "+client|id|x ( ()", "(", "~ & + - > < # ! %",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rules string) {
		u := newUsers("", false)
		if u.set("a", strings.Split(rules, " ")) != nil {
			return
		}
		shown := u.get("a").describe()
		again := newUsers("", false)
		if err := again.set("a", strings.Split(shown, " ")[1:]); err != nil {
			t.Fatalf("%q is shown as %q, which is refused: %v", rules, shown, err)
		}
		if got := again.get("a").describe(); got != shown {
			t.Fatalf("%q is shown as %q, which makes %q", rules, shown, got)
		}
		each(func(sp *spec) {
			args := []string{sp.full, "x"}
			a, _ := u.check(u.get("a"), sp, args)
			b, _ := again.check(again.get("a"), sp, args)
			if a != b {
				t.Fatalf("%q and %q judge %s differently", rules, shown, sp.full)
			}
		})
	})
}

// A file of users counts whole or not at all, and says what is wrong with it.
func TestUsersFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.acl")
	load := func(text string) (*users, error) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return loadUsersFile(path, false)
	}
	u, err := load("user bob on >secret +ping\n\n  user default off \r\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := u.login("bob", "secret"); !ok || u.open() {
		t.Errorf("users are %q", u.describe())
	}
	for text, want := range map[string]string{
		"user a on\nuser a off\n":   "WARNING: Duplicate user 'a' found on line 2. " + errACLKept,
		"usr a\n":                   path + ":1 should start with user keyword followed by the username. " + errACLKept,
		"# no comments\n":           path + ":1 should start with user keyword followed by the username. " + errACLKept,
		"user a foo\n":              path + ":1: Syntax error. " + errACLKept,
		"user a on\nuser b +nope\n": path + ":2: Error in applying operation '+nope': Unknown command or category name in ACL. " + errACLKept,
		"user a (+ping\n":           path + ":1: Unmatched parenthesis in selector definition." + errACLKept,
		"user a foo +@x\n":          path + ":1: Syntax error. " + path + ":1: Error in applying operation '+@x': Unknown command or category name in ACL. " + errACLKept,
		"user a ~* ~x\n":            path + ":1: " + errACLAllKeys.Error() + ". " + errACLKept,
	} {
		if _, err := load(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, not %s", text, err, want)
		}
	}
	if _, err := loadUsersFile(filepath.Join(t.TempDir(), "none"), false); err == nil || !strings.HasSuffix(err.Error(), "': No such file or directory") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// Sentinels with users of their own, ours and a genuine one: they lose each
// other when the default user is turned off, and are together again once they
// have got a name and a password.
func TestSentinelsNameThemselves(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	d := deploy(t, 2, 1)
	d.downAfter(brisk)
	admins := make([]*wire, len(d.sentinels))
	do := func(i int, want string, args ...string) {
		t.Helper()
		v, err := admins[i].do(args...)
		if err != nil || v.String() != want {
			t.Fatalf("%s: %q: %v (%v), not %s", d.sentinels[i].name, args, v, err, want)
		}
	}
	quorum := func(i int, prefix string) {
		t.Helper()
		waitFor(t, d.sentinels[i].name+" says "+prefix, func() error {
			v, err := admins[i].do("SENTINEL", "CKQUORUM", "mymaster")
			if err == nil && !strings.HasPrefix(v.String(), prefix) {
				err = errors.New(v.String())
			}
			return err
		})
	}
	for i, s := range d.sentinels {
		w, err := dial(s.port)
		if err != nil {
			t.Fatal(err)
		}
		defer w.close()
		admins[i] = w
		do(i, "OK", "ACL", "SETUSER", "peer", ">secret", "+@all", "on")
		do(i, "OK", "AUTH", "peer", "secret")
		do(i, "OK", "ACL", "SETUSER", "default", "off")
		if _, err := w.do("CLIENT", "KILL", "USER", "default"); err != nil {
			t.Fatal(err)
		}
		do(i, "peer", "ACL", "WHOAMI")
	}
	for i := range admins {
		quorum(i, "NOQUORUM")
	}
	for i := range admins {
		do(i, "OK", "SENTINEL", "CONFIG", "SET", "sentinel-user", "peer")
		do(i, "OK", "SENTINEL", "CONFIG", "SET", "sentinel-pass", "secret")
	}
	for i := range admins {
		quorum(i, "OK 3")
	}
}
