package sentineld

import (
	"errors"
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
	d, _ := u.check(u.get(name), lookup(args), args)
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
