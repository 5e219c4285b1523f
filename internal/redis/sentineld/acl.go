package sentineld

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"

	"holdfast/internal/redis/config"
	"holdfast/internal/redis/glob"
)

// ACL users: who may run which commands and follow which channels. Patterns of
// keys are kept and shown, but nothing asks for them: a Sentinel has no keys.

// What is wrong with a rule, to the letter of Redis.
var (
	errACLUnknown = errors.New("Unknown command or category name in ACL")                                                                                                                                                                                                                    //lint:ignore ST1005 the words of Redis
	errACLSyntax  = errors.New("Syntax error")                                                                                                                                                                                                                                               //lint:ignore ST1005 the words of Redis
	errACLAllKeys = errors.New("Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns")                                                                                            //lint:ignore ST1005 the words of Redis
	errACLAllChan = errors.New("Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels")                                                                                    //lint:ignore ST1005 the words of Redis
	errACLNoPass  = errors.New("The password you are trying to remove from the user does not exist")                                                                                                                                                                                         //lint:ignore ST1005 the words of Redis
	errACLHash    = errors.New("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")                                                                                                                                                          //lint:ignore ST1005 the words of Redis
	errACLSubArg  = errors.New("Allowing first-arg of a subcommand is not supported")                                                                                                                                                                                                        //lint:ignore ST1005 the words of Redis
	errACLName    = errors.New("Usernames can't contain spaces or null characters")                                                                                                                                                                                                          //lint:ignore ST1005 the words of Redis
	errACLNoFile  = errors.New("This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.") //lint:ignore ST1005 the words of Redis
)

// aclCategories are all categories of Redis, in its order; a Sentinel's commands
// are in few of them.
var aclCategories = strings.Fields(`keyspace read write set sortedset list hash string bitmap hyperloglog geo stream
	pubsub admin fast slow blocking dangerous connection transaction scripting`)

const (
	maxRules     = 1000 // patterns, passwords or selectors of one user
	defaultUser  = "default"
	hashedLength = 64
)

// rights is a selector: what one set of rules allows. Commands are named in
// full, as in "sentinel|masters".
type rights struct {
	all         bool // every command
	future      bool // commands that do not exist yet, too
	allowed     map[string]bool
	firstArgs   map[string][]string // of commands that are not allowed otherwise
	allKeys     bool
	keys        []keyPattern
	allChannels bool
	channels    []string
}

// keyPattern is what may be read and written.
type keyPattern struct {
	glob        string
	read, write bool
}

// user is one ACL user. Its fields are guarded by users.mu.
type user struct {
	name      string
	on        bool
	noPass    bool
	sanitize  string   // "", "sanitize-payload" or "skip-sanitize-payload"
	passwords []string // SHA-256 in hexadecimal, in the order in which they came
	root      rights
	selectors []rights
}

// users are all of them. The user called default always exists.
type users struct {
	mu          sync.RWMutex
	byName      map[string]*user
	allChannels bool // acl-pubsub-default
	log         aclLog
}

func (r *rights) set(on bool, sp *spec) {
	delete(r.firstArgs, sp.full)
	if on {
		r.allowed[sp.full] = true
	} else {
		delete(r.allowed, sp.full)
		r.all = false
	}
	for _, sub := range sp.sub {
		r.set(on, sub)
	}
}

func (r *rights) setAll(on bool) {
	r.all, r.future, r.allowed, r.firstArgs = on, on, map[string]bool{}, map[string][]string{}
	if on {
		each(func(sp *spec) { r.allowed[sp.full] = true })
	}
}

func (r *rights) setCategory(on bool, name string) bool {
	if strings.EqualFold(name, "all") {
		r.setAll(on)
		return true
	}
	if !isCategory(name) {
		return false
	}
	each(func(sp *spec) {
		if sp.in(name) {
			r.set(on, sp)
		}
	})
	return true
}

func isCategory(name string) bool {
	return slices.ContainsFunc(aclCategories, func(c string) bool { return strings.EqualFold(c, name) })
}

func newRights(allChannels bool) rights {
	r := rights{allChannels: allChannels}
	r.setAll(false)
	return r
}

// apply does one rule.
func (r *rights) apply(rule string) error {
	switch strings.ToLower(rule) {
	case "allkeys", "~*":
		r.allKeys, r.keys = true, nil
		return nil
	case "resetkeys":
		r.allKeys, r.keys = false, nil
		return nil
	case "allchannels", "&*":
		r.allChannels, r.channels = true, nil
		return nil
	case "resetchannels":
		r.allChannels, r.channels = false, nil
		return nil
	case "allcommands", "+@all":
		r.setAll(true)
		return nil
	case "nocommands", "-@all":
		r.setAll(false)
		return nil
	}
	switch {
	case rule == "":
		return nil
	case rule[0] == '~' || rule[0] == '%':
		return r.addKeys(rule)
	case rule[0] == '&':
		return r.addChannel(rule[1:])
	case strings.HasPrefix(rule, "+@") || strings.HasPrefix(rule, "-@"):
		if !r.setCategory(rule[0] == '+', rule[2:]) {
			return errACLUnknown
		}
		return nil
	case rule[0] == '+' || rule[0] == '-':
		return r.command(rule[0] == '+', rule[1:])
	}
	return errACLSyntax
}

// command allows or forbids a command, with or without its first argument.
func (r *rights) command(on bool, name string) error {
	if sp := lookupFull(table, name); sp != nil {
		r.set(on, sp)
		return nil
	}
	i := strings.LastIndexByte(name, '|')
	if !on || i < 0 {
		return errACLUnknown
	}
	sp, arg := lookupFull(table, name[:i]), strings.ToLower(name[i+1:])
	switch {
	case sp == nil:
		return errACLUnknown
	case strings.Contains(sp.full, "|"):
		return errACLSubArg
	case arg == "":
		return errACLSyntax
	case len(sp.sub) > 0:
		return errACLUnknown
	}
	if args := r.firstArgs[sp.full]; !r.allowed[sp.full] && !slices.Contains(args, arg) && len(args) < maxRules {
		r.firstArgs[sp.full] = append(args, arg)
	}
	return nil
}

func (r *rights) addKeys(rule string) error {
	if r.allKeys {
		return errACLAllKeys
	}
	p := keyPattern{rule[1:], true, true}
	if rule[0] == '%' {
		access, pattern, _ := strings.Cut(rule[1:], "~")
		letters := strings.ToUpper(access)
		p = keyPattern{pattern, strings.Contains(letters, "R"), strings.Contains(letters, "W")}
		if strings.Trim(letters, "RW") != "" || letters == "" || strings.Count(letters, "R") > 1 || strings.Count(letters, "W") > 1 {
			return errACLSyntax
		}
	}
	if strings.ContainsAny(p.glob, " \t\r\n\v\f\x00") || len(r.keys) >= maxRules {
		return errACLSyntax
	}
	for i := range r.keys {
		if k := &r.keys[i]; k.glob == p.glob {
			k.read, k.write = k.read || p.read, k.write || p.write
			return nil
		}
	}
	r.keys = append(r.keys, p)
	return nil
}

func (r *rights) addChannel(pattern string) error {
	if r.allChannels {
		return errACLAllChan
	}
	if strings.ContainsAny(pattern, " \t\r\n\v\f\x00") || len(r.channels) >= maxRules {
		return errACLSyntax
	}
	if !slices.Contains(r.channels, pattern) {
		r.channels = append(r.channels, pattern)
	}
	return nil
}

func (r *rights) clone() rights {
	c := *r
	c.allowed, c.firstArgs = map[string]bool{}, map[string][]string{}
	for k := range r.allowed {
		c.allowed[k] = true
	}
	for k, v := range r.firstArgs {
		c.firstArgs[k] = slices.Clone(v)
	}
	c.keys, c.channels = slices.Clone(r.keys), slices.Clone(r.channels)
	return c
}

func (u *user) clone() *user {
	c := *u
	c.passwords = slices.Clone(u.passwords)
	c.root = u.root.clone()
	c.selectors = nil
	for i := range u.selectors {
		c.selectors = append(c.selectors, u.selectors[i].clone())
	}
	return &c
}

func hashed(pass string) string {
	sum := sha256.Sum256([]byte(pass))
	return hex.EncodeToString(sum[:])
}

func isHash(s string) bool {
	return len(s) == hashedLength && strings.Trim(s, "0123456789abcdef") == ""
}

// apply does one rule of SETUSER or of a user line.
func (u *user) apply(rule string, allChannels bool) error {
	switch lower := strings.ToLower(rule); lower {
	case "on", "off":
		u.on = lower == "on"
		return nil
	case "nopass":
		u.noPass, u.passwords = true, nil
		return nil
	case "resetpass":
		u.noPass, u.passwords = false, nil
		return nil
	case "sanitize-payload", "skip-sanitize-payload":
		u.sanitize = lower
		return nil
	case "clearselectors":
		u.selectors = nil
		return nil
	case "reset":
		*u = user{name: u.name, sanitize: "sanitize-payload", root: newRights(allChannels)}
		return nil
	}
	switch {
	case rule == "":
	case rule[0] == '>' || rule[0] == '#':
		return u.addPassword(rule)
	case rule[0] == '<' || rule[0] == '!':
		return u.removePassword(rule)
	case rule[0] == '(' && rule[len(rule)-1] == ')':
		return u.addSelector(rule[1:len(rule)-1], allChannels)
	}
	return u.root.apply(rule)
}

func (u *user) addPassword(rule string) error {
	hash := rule[1:]
	if rule[0] == '>' {
		hash = hashed(hash)
	} else if !isHash(hash) {
		return errACLHash
	}
	if !slices.Contains(u.passwords, hash) {
		if len(u.passwords) >= maxRules {
			return errACLSyntax
		}
		u.passwords = append(u.passwords, hash)
	}
	u.noPass = false
	return nil
}

func (u *user) removePassword(rule string) error {
	hash := rule[1:]
	if rule[0] == '<' {
		hash = hashed(hash)
	} else if !isHash(hash) {
		return errACLHash
	}
	i := slices.Index(u.passwords, hash)
	if i < 0 {
		return errACLNoPass
	}
	u.passwords = slices.Delete(u.passwords, i, i+1)
	return nil
}

func (u *user) addSelector(text string, allChannels bool) error {
	s := newRights(allChannels)
	for _, rule := range strings.Fields(text) {
		if strings.HasSuffix(rule, ")") { // shown again, it would end the selector
			return errACLSyntax
		}
		if err := s.apply(rule); err != nil {
			return err
		}
	}
	if len(u.selectors) >= maxRules {
		return errACLSyntax
	}
	u.selectors = append(u.selectors, s)
	return nil
}

// --- how rights are shown ---

// commands describes the allowed commands as Redis does: from all or nothing,
// the categories that fit best, then single commands.
func (r *rights) commands() string {
	have, left := newRights(false), r.clone()
	additive, words := true, []string{"-@all"}
	if r.future {
		have.setAll(true)
		additive, words[0] = false, "+@all"
	}
	applied := map[string]bool{}
	for {
		best := left.bestCategory(applied, additive)
		if best == "" {
			break
		}
		applied[best] = true
		have.setCategory(additive, best)
		left.setCategory(!additive, best)
		words = append(words, sign(additive)+"@"+best)
	}
	each(func(sp *spec) {
		if on := r.allowed[sp.full]; on != have.allowed[sp.full] {
			words = append(words, sign(on)+sp.full)
			have.set(on, sp)
		}
		if !r.allowed[sp.full] {
			for _, a := range r.firstArgs[sp.full] {
				words = append(words, "+"+sp.full+"|"+a)
			}
		}
	})
	return strings.Join(words, " ")
}

func sign(on bool) string {
	if on {
		return "+"
	}
	return "-"
}

// bestCategory has more commands in common with the rights than not, and of
// those the fewest that are not.
func (r *rights) bestCategory(applied map[string]bool, additive bool) string {
	best, fewest, most := "", len(table)*100, 0
	for _, cat := range aclCategories {
		if applied[cat] {
			continue
		}
		same, differ := 0, 0
		each(func(sp *spec) {
			if !sp.in(cat) {
				return
			}
			if r.allowed[sp.full] == additive {
				same++
			} else {
				differ++
			}
		})
		if same > differ && (differ < fewest || differ == fewest && same > most) {
			best, fewest, most = cat, differ, same
		}
	}
	return best
}

func (r *rights) keyText() string {
	if r.allKeys {
		return "~*"
	}
	var words []string
	for _, k := range r.keys {
		access := "~"
		switch {
		case !k.write:
			access = "%R~"
		case !k.read:
			access = "%W~"
		}
		words = append(words, access+k.glob)
	}
	return strings.Join(words, " ")
}

func (r *rights) channelText() string {
	if r.allChannels {
		return "&*"
	}
	var words []string
	for _, c := range r.channels {
		words = append(words, "&"+c)
	}
	return strings.Join(words, " ")
}

// describe is the form of ACL LIST and of user lines.
func (r *rights) describe() string {
	var words []string
	if k := r.keyText(); k != "" {
		words = append(words, k)
	}
	if !r.allChannels {
		words = append(words, "resetchannels")
	}
	if c := r.channelText(); c != "" {
		words = append(words, c)
	}
	return strings.Join(append(words, r.commands()), " ")
}

func (u *user) flags() []string {
	words := []string{"off"}
	if u.on {
		words[0] = "on"
	}
	if u.noPass {
		words = append(words, "nopass")
	}
	if u.sanitize != "" {
		words = append(words, u.sanitize)
	}
	return words
}

// describe is the user as "name rules".
func (u *user) describe() string {
	words := append([]string{u.name}, u.flags()...)
	for _, p := range u.passwords {
		words = append(words, "#"+p)
	}
	words = append(words, u.root.describe())
	for i := range u.selectors {
		words = append(words, "("+u.selectors[i].describe()+")")
	}
	return strings.Join(words, " ")
}

// --- the table of users ---

// newUsers has the default user, who may do everything, with a password if one
// is given.
func newUsers(requirePass string, allChannels bool) *users {
	t := &users{byName: map[string]*user{}, allChannels: allChannels}
	u := &user{name: defaultUser, on: true, noPass: requirePass == "", root: newRights(true)}
	u.root.allKeys = true
	u.root.setAll(true)
	if requirePass != "" {
		u.passwords = []string{hashed(requirePass)}
	}
	t.byName[defaultUser] = u
	return t
}

// names are in the order in which Redis lists them.
func (t *users) names() []string {
	var names []string
	for n := range t.byName {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// describe lists all users as "name rules".
func (t *users) describe() (list []string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, n := range t.names() {
		list = append(list, t.byName[n].describe())
	}
	return list
}

// ruleError is a rule that was refused, with the reason.
type ruleError struct {
	rule string
	err  error
}

func (e *ruleError) Error() string {
	return fmt.Sprintf("Error in ACL SETUSER modifier '%s': %s", e.rule, e.err)
}

// set makes or changes a user: by all rules, or by none.
func (t *users) set(name string, rules []string) error {
	if strings.ContainsAny(name, " \t\r\n\v\f\x00") {
		return errACLName
	}
	rules, err := joinSelectors(rules)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.byName[name]
	u := &user{name: name, root: newRights(t.allChannels)}
	if old != nil {
		u = old.clone()
	}
	for _, rule := range rules {
		if err := u.apply(rule, t.allChannels); err != nil {
			return &ruleError{rule, err}
		}
	}
	if old != nil {
		*old = *u // clients hold on to it
	} else {
		t.byName[name] = u
	}
	return nil
}

// joinSelectors puts the words of a selector, which may come as several
// arguments, into one.
func joinSelectors(rules []string) ([]string, error) {
	var out []string
	open := ""
	for _, r := range rules {
		switch {
		case open != "":
			open += " " + r
		case strings.HasPrefix(r, "("):
			open = r
		default:
			out = append(out, r)
			continue
		}
		if strings.HasSuffix(r, ")") {
			out, open = append(out, open), ""
		}
	}
	if open != "" {
		return nil, fmt.Errorf("Unmatched parenthesis in acl selector starting at '%s'.", strings.Fields(open)[0]) //lint:ignore ST1005 the words of Redis
	}
	return out, nil
}

// lineError is a rule of a file that was refused.
type lineError struct{ ruleError }

func (e *lineError) Error() string { return e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

// loadLine applies a user line of a file: name, then rules.
func (t *users) loadLine(args []string) error {
	rules := args[1:]
	if args[0] == defaultUser {
		rules = append([]string{"reset"}, rules...)
	}
	err := t.set(args[0], rules)
	var re *ruleError
	if errors.As(err, &re) {
		return &lineError{*re}
	}
	return err
}

// checkLine judges a user line of sentinel.conf while that is read.
func checkLine(args []string) error {
	if strings.ContainsAny(args[0], " \x00") {
		return nil // refused once the log is open, as in Redis
	}
	err := newUsers("", false).loadLine(args)
	if errors.Is(err, errACLUnknown) {
		return nil // as are unknown commands
	}
	return err
}

const errACLKept = "WARNING: ACL errors detected, no change to the previously active ACL rules was performed"

// loadUsersFile reads a file of user lines. The error names everything that is
// wrong with it.
func loadUsersFile(path string, allChannels bool) (*users, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		reason := err.Error()
		return nil, fmt.Errorf("Error loading ACLs, opening file '%s': %s", path, strings.ToUpper(reason[:1])+reason[1:]) //lint:ignore ST1005 the words of Redis
	}
	t := newUsers("", allChannels)
	seen := map[string]bool{}
	wrong := ""
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.Trim(line, " \t\r\n")
		if line == "" {
			continue
		}
		words := strings.Split(line, " ")
		if words[0] != "user" || len(words) < 2 {
			wrong += fmt.Sprintf("%s:%d should start with user keyword followed by the username. ", path, i+1)
			continue
		}
		if seen[words[1]] {
			wrong += fmt.Sprintf("WARNING: Duplicate user '%s' found on line %d. ", words[1], i+1)
			continue
		}
		seen[words[1]] = true
		wrong += t.fileLine(fmt.Sprintf("%s:%d: ", path, i+1), words[1:])
	}
	if wrong != "" {
		return nil, errors.New(wrong + errACLKept)
	}
	return t, nil
}

// fileLine applies a line rule by rule, and says what is wrong with each.
func (t *users) fileLine(where string, args []string) (wrong string) {
	rules, err := joinSelectors(args[1:])
	if err != nil {
		return where + "Unmatched parenthesis in selector definition."
	}
	if err := t.loadLine(args[:1]); err != nil {
		return where + err.Error() + ". "
	}
	for _, rule := range rules {
		switch err := t.byName[args[0]].apply(rule, t.allChannels); {
		case errors.Is(err, errACLUnknown):
			wrong += fmt.Sprintf("%sError in applying operation '%s': %s. ", where, rule, err)
		case err != nil:
			wrong += where + err.Error() + ". "
		}
	}
	return wrong
}

// What refuses the start, to the letter of Redis.
var (
	errACLBoth   = errors.New("Configuring Redis with users defined in redis.conf and at the same setting an ACL file path is invalid. This setup is very likely to lead to configuration errors and security holes, please define either an ACL file or declare users directly in your redis.conf, but not both.") //lint:ignore ST1005 the words of Redis
	errACLSpaces = errors.New("Spaces not allowed in ACL usernames")                                                                                                                                                                                                                                                //lint:ignore ST1005 the words of Redis
)

// configuredUsers are those of sentinel.conf or of its aclfile.
func configuredUsers(base *config.Config) (*users, error) {
	allChannels := base.ACLPubsubDefault == config.PubsubAllChannels
	t := newUsers(base.RequirePass, allChannels)
	if base.ACLFile != "" {
		if len(base.UserLines) > 0 {
			return nil, errACLBoth
		}
		var err error
		if t, err = loadUsersFile(base.ACLFile, allChannels); err != nil {
			return nil, fmt.Errorf("Aborting Redis startup because of ACL errors: %w", err) //lint:ignore ST1005 the words of Redis
		}
	}
	for _, l := range base.UserLines {
		err := t.loadLine(l)
		var le *lineError
		switch {
		case errors.Is(err, errACLName):
			return nil, errACLSpaces
		case errors.As(err, &le):
			return nil, fmt.Errorf("Error loading ACL rule '%s' for the user named '%s': %w", le.rule, l[0], le.err) //lint:ignore ST1005 the words of Redis
		case err != nil:
			return nil, err
		}
	}
	t.log.max = int(base.ACLLogMaxLen)
	return t, nil
}

// login checks a password in a time that does not depend on it.
func (t *users) login(name, pass string) (*user, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	u := t.byName[name]
	if u == nil || !u.on {
		return nil, false
	}
	good := 0
	hash := hashed(pass)
	for _, p := range u.passwords {
		good |= subtle.ConstantTimeCompare([]byte(hash), []byte(p))
	}
	return u, u.noPass || good == 1
}

// open reports whether the default user needs no password.
func (t *users) open() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	u := t.byName[defaultUser]
	return u.on && u.noPass
}

// denial is why a command is not allowed.
type denial int

const (
	permitted denial = iota
	deniedCommand
	deniedChannel
)

// check judges a command by the rights of a user; arg is the argument that is
// not allowed.
func (t *users) check(u *user, sp *spec, args []string) (d denial, arg string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if d, arg = u.root.check(sp, args); d == permitted {
		return d, ""
	}
	for i := range u.selectors {
		sd, sarg := u.selectors[i].check(sp, args)
		if sd == permitted {
			return permitted, ""
		}
		if sd > d {
			d, arg = sd, sarg
		}
	}
	return d, arg
}

func (r *rights) check(sp *spec, args []string) (denial, string) {
	if !r.all && !sp.noAuth && !r.allowed[sp.full] {
		if len(args) < 2 || !slices.Contains(r.firstArgs[sp.full], strings.ToLower(args[1])) {
			return deniedCommand, sp.full
		}
	}
	for _, ch := range sp.channels(args) {
		if !r.mayFollow(ch, sp.full == "psubscribe") {
			return deniedChannel, ch
		}
	}
	return permitted, ""
}

func (r *rights) mayFollow(channel string, pattern bool) bool {
	return r.allChannels || slices.ContainsFunc(r.channels, func(p string) bool {
		if pattern {
			return p == channel
		}
		return glob.Match([]byte(p), []byte(channel), false)
	})
}

// mayKeep reports whether a user may go on to follow what its client follows.
func (t *users) mayKeep(u *user, channels, patterns []string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	one := func(name string, pattern bool) bool {
		if u.root.mayFollow(name, pattern) {
			return true
		}
		return slices.ContainsFunc(u.selectors, func(r rights) bool { return r.mayFollow(name, pattern) })
	}
	for _, c := range channels {
		if !one(c, false) {
			return false
		}
	}
	for _, p := range patterns {
		if !one(p, true) {
			return false
		}
	}
	return true
}
