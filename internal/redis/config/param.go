package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Flag says how a parameter may be changed and shown.
type Flag uint

// The flags of a parameter.
const (
	// Immutable parameters are set at start-up only.
	Immutable Flag = 1 << iota
	// Hidden parameters are shown by CONFIG GET only under their exact name.
	Hidden
	// Protected parameters can be set at run time only if
	// enable-protected-configs allows it.
	Protected
	// Sensitive values must not reach logs, MONITOR or SLOWLOG.
	Sensitive
	// MultiArg parameters take several space-separated arguments.
	MultiArg
	// DenyLoading parameters cannot be set while the data set loads.
	DenyLoading
	// Own parameters do not exist in Redis.
	Own
	// IsAlias marks the second name of a parameter.
	IsAlias

	// Modifiable is the absence of any restriction.
	Modifiable Flag = 0
)

// Kind is the type of a parameter's value, as the reference page names it.
type Kind string

// The kinds of parameters.
const (
	KindBool            Kind = "yes/no"
	KindEnum            Kind = "enum"
	KindFlags           Kind = "flags"
	KindInt             Kind = "integer"
	KindOctal           Kind = "octal"
	KindMemory          Kind = "memory"
	KindMemoryOrPercent Kind = "memory or percent"
	KindString          Kind = "string"
	KindSpecial         Kind = "special"
)

// Param is one row of the option table: what a directive is called, takes and
// means. A Param belongs to the Config whose fields it reads and writes.
type Param struct {
	Name     string // lower case
	Alias    string // the other name, or ""
	Kind     Kind
	Flags    Flag
	Default  string // as CONFIG GET prints it
	Range    string // the values taken, in words; "" if any
	NoEffect string // why the directive changes nothing here; "" if it works
	Doc      string // one line of consequence

	get     func() string
	set     func(args []string) (changed bool, err error)
	rewrite func(r *rewriter, name string)
	// setAway reports a value that a user chose against the default.
	setAway func() bool
}

// Is reports whether all of the given flags are set.
func (p *Param) Is(f Flag) bool { return p.Flags&f == f }

// Value is the current value as CONFIG GET prints it.
func (p *Param) Value() string { return p.get() }

// also gives the parameter a second name.
func (p *Param) also(alias string) *Param {
	p.Alias = alias
	return p
}

// noEffect marks the parameter as accepted without consequence.
func (p *Param) noEffect(reason string) *Param {
	p.NoEffect = reason
	return p
}

// valid adds a check of the new value; it runs after the value is stored, and
// restores the old one if check objects.
func (p *Param) valid(check func() error) *Param {
	inner, get := p.set, p.get
	p.set = func(args []string) (bool, error) {
		before := get()
		changed, err := inner(args)
		if err != nil {
			return false, err
		}
		if err := check(); err != nil {
			// The old value was accepted once, so it is accepted again.
			_, _ = inner([]string{before})
			return false, err
		}
		return changed, nil
	}
	return p
}

// valueError is a complaint about a value, in the words of Redis.
type valueError string

func (e valueError) Error() string { return string(e) }

const errArgCount = valueError("wrong number of arguments")

func yesNoText(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func yesNo(v *bool, name string, def bool, flags Flag, doc string) *Param {
	*v = def
	p := &Param{Name: name, Kind: KindBool, Flags: flags, Default: yesNoText(def), Range: "yes, no", Doc: doc}
	p.get = func() string { return yesNoText(*v) }
	p.set = func(args []string) (bool, error) {
		old := *v
		switch strings.ToLower(cString(args[0])) {
		case "yes":
			*v = true
		case "no":
			*v = false
		default:
			return false, valueError("argument must be 'yes' or 'no'")
		}
		return *v != old, nil
	}
	p.setAway = func() bool { return *v != def }
	p.rewrite = func(r *rewriter, name string) { r.line(name, name+" "+p.get(), *v != def) }
	return p
}

// enumWord is one word of an enumeration. The first word of a value is the one
// that is shown.
type enumWord struct {
	word  string
	value int
}

// words numbers the values of an enumeration from 0.
func words(list ...string) []enumWord {
	e := make([]enumWord, len(list))
	for i, w := range list {
		e[i] = enumWord{w, i}
	}
	return e
}

func enumName(names []enumWord, value int) string {
	for _, n := range names {
		if n.value == value {
			return n.word
		}
	}
	return "unknown"
}

func enumValue(names []enumWord, word string) (int, bool) {
	for _, n := range names {
		if strings.EqualFold(n.word, word) {
			return n.value, true
		}
	}
	return 0, false
}

func joinWords(names []enumWord) string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = n.word
	}
	return strings.Join(list, ", ")
}

func enum[T ~int](v *T, name string, names []enumWord, def T, flags Flag, doc string) *Param {
	*v = def
	p := &Param{Name: name, Kind: KindEnum, Flags: flags, Default: enumName(names, int(def)),
		Range: joinWords(names), Doc: doc}
	p.get = func() string { return enumName(names, int(*v)) }
	p.set = func(args []string) (bool, error) {
		n, ok := enumValue(names, cString(args[0]))
		if !ok {
			return false, valueError("argument(s) must be one of the following: " + joinWords(names))
		}
		old := *v
		*v = T(n)
		return *v != old, nil
	}
	p.setAway = func() bool { return *v != def }
	p.rewrite = func(r *rewriter, name string) { r.line(name, name+" "+p.get(), *v != def) }
	return p
}

// flagSet is an enumeration whose words may be given together; the first word
// stands for none of them.
func flagSet[T ~int](v *T, name string, names []enumWord, flags Flag, doc string) *Param {
	*v = 0
	p := &Param{Name: name, Kind: KindFlags, Flags: flags | MultiArg, Default: names[0].word,
		Range: joinWords(names), Doc: doc}
	p.get = func() string {
		var list []string
		for _, n := range names {
			if n.value != 0 && int(*v)&n.value == n.value {
				list = append(list, n.word)
			}
		}
		if list == nil {
			return names[0].word
		}
		return strings.Join(list, " ")
	}
	p.set = func(args []string) (bool, error) {
		bits := 0
		for _, a := range args {
			n, ok := enumValue(names, cString(a))
			if !ok {
				bits = -1
				break
			}
			bits |= n
		}
		if bits < 0 || len(args) == 0 {
			return false, valueError("argument(s) must be one of the following: " + joinWords(names))
		}
		old := *v
		*v = T(bits)
		return *v != old, nil
	}
	p.setAway = func() bool { return *v != 0 }
	p.rewrite = func(r *rewriter, name string) { r.line(name, name+" "+p.get(), *v != 0) }
	return p
}

// numeric gathers what the numeric kinds have in common. Values travel as
// int64; unsigned ones by their bits, as in Redis.
type numeric struct {
	unsigned, memory, percent, octal bool
	lo, hi                           int64
}

func (n numeric) parse(s string) (int64, error) {
	switch {
	case n.memory:
		if m, ok := ParseMemory(s); ok {
			return int64(m), nil
		}
		if n.percent && len(s) > 1 && s[len(s)-1] == '%' {
			// A percentage is kept as a negative number.
			if v, ok := parseStrictInt(s[:len(s)-1]); ok && v >= 0 {
				return -v, nil
			}
		}
		if n.percent {
			return 0, valueError("argument must be a memory or percent value")
		}
		return 0, valueError("argument must be a memory value")
	case n.octal:
		if v, rest, overflow := scanInt(s, 8); rest == "" && !overflow {
			return v, nil
		}
		return 0, valueError("argument couldn't be parsed as an octal number")
	}
	if v, ok := parseStrictInt(s); ok {
		return v, nil
	}
	return 0, valueError("argument couldn't be parsed into an integer")
}

func (n numeric) check(v int64) error {
	switch {
	case n.unsigned && (uint64(v) < uint64(n.lo) || uint64(v) > uint64(n.hi)):
	case n.percent && v < 0:
		if v < n.lo {
			return valueError(fmt.Sprintf("percentage argument must be less or equal to %d", -n.lo))
		}
		return nil
	case !n.unsigned && (v < n.lo || v > n.hi):
	default:
		return nil
	}
	return valueError("argument must be between " + n.bound(n.lo) + " and " + n.bound(n.hi) + " inclusive")
}

func (n numeric) bound(v int64) string {
	switch {
	case n.octal:
		return strconv.FormatUint(uint64(v), 8)
	case n.unsigned:
		return strconv.FormatUint(uint64(v), 10)
	}
	return strconv.FormatInt(v, 10)
}

func (n numeric) format(v int64) string {
	switch {
	case n.percent && v < 0:
		return strconv.FormatInt(-v, 10) + "%"
	case n.memory:
		return strconv.FormatUint(uint64(v), 10)
	case n.octal:
		return strconv.FormatUint(uint64(v), 8)
	}
	return strconv.FormatInt(v, 10)
}

// directive formats v for CONFIG REWRITE.
func (n numeric) directive(v int64) string {
	if n.memory && (!n.percent || v >= 0) {
		return FormatMemory(uint64(v))
	}
	return n.format(v)
}

func (n numeric) kind() Kind {
	switch {
	case n.percent:
		return KindMemoryOrPercent
	case n.memory:
		return KindMemory
	case n.octal:
		return KindOctal
	}
	return KindInt
}

func number[T int | int64 | uint64](v *T, name string, n numeric, def int64, flags Flag, doc string) *Param {
	*v = T(def)
	p := &Param{Name: name, Kind: n.kind(), Flags: flags, Default: n.format(def),
		Range: n.bound(n.lo) + " to " + n.bound(n.hi), Doc: doc}
	if n.percent {
		p.Range = "0% to " + strconv.FormatInt(-n.lo, 10) + "%, 0 to " + n.bound(n.hi)
	}
	p.get = func() string { return n.format(int64(*v)) }
	p.set = func(args []string) (bool, error) {
		x, err := n.parse(args[0])
		if err != nil {
			return false, err
		}
		if err := n.check(x); err != nil {
			return false, err
		}
		old := *v
		*v = T(x)
		return *v != old, nil
	}
	p.setAway = func() bool { return int64(*v) != def }
	p.rewrite = func(r *rewriter, name string) {
		r.line(name, name+" "+n.directive(int64(*v)), int64(*v) != def)
	}
	return p
}

// integer is a signed number; the bounds are those of its error message.
func integer[T int | int64](v *T, name string, lo, hi, def int64, flags Flag, doc string) *Param {
	return number(v, name, numeric{lo: lo, hi: hi}, def, flags, doc)
}

// count is a number that Redis keeps unsigned: a negative one is too large.
func count[T int | int64](v *T, name string, lo, hi, def int64, flags Flag, doc string) *Param {
	return number(v, name, numeric{lo: lo, hi: hi, unsigned: true}, def, flags, doc)
}

// memory is an amount of bytes that Redis keeps unsigned.
func memory[T int | int64 | uint64](v *T, name string, lo, hi, def int64, flags Flag, doc string) *Param {
	return number(v, name, numeric{lo: lo, hi: hi, unsigned: true, memory: true}, def, flags, doc)
}

// signedMemory is an amount of bytes that Redis keeps signed.
func signedMemory(v *int64, name string, lo, hi, def int64, flags Flag, doc string) *Param {
	return number(v, name, numeric{lo: lo, hi: hi, memory: true}, def, flags, doc)
}

const (
	maxInt  = math.MaxInt32
	minInt  = math.MinInt32
	maxLong = math.MaxInt64
	maxU64  = int64(-1) // the bits of the largest uint64
)

// text is a string parameter. With unsetIfEmpty an empty value means that the
// directive is absent, and CONFIG REWRITE drops it.
func text(v *string, name, def string, unsetIfEmpty bool, flags Flag, doc string) *Param {
	*v = def
	p := &Param{Name: name, Kind: KindString, Flags: flags, Default: def, Doc: doc}
	p.get = func() string { return *v }
	p.set = func(args []string) (bool, error) {
		old := *v
		*v = cString(args[0])
		return *v != old, nil
	}
	p.setAway = func() bool { return *v != def }
	p.rewrite = func(r *rewriter, name string) {
		if unsetIfEmpty && *v == "" {
			r.processed(name)
			return
		}
		r.line(name, string(AppendRepr([]byte(name+" "), *v)), unsetIfEmpty || *v != def)
	}
	return p
}

// orUnset and mayBeEmpty name the last distinction at the place of use.
const (
	orUnset    = true
	mayBeEmpty = false
)

// binary is a text parameter whose value may hold any byte.
func binary(v *string, name string, flags Flag, doc string) *Param {
	p := text(v, name, "", orUnset, flags, doc)
	p.set = func(args []string) (bool, error) {
		old := *v
		*v = args[0]
		return *v != old, nil
	}
	return p
}
