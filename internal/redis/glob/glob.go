// Package glob decides whether a byte string matches a glob-style pattern of
// Redis, as KEYS, SCAN MATCH, PSUBSCRIBE, CONFIG GET and ACL rules use it.
//
//	glob.Match([]byte("h[ae]llo*"), []byte("hello world"), false) // true
//
// Pattern language:
//
//	star    any run of bytes, also none
//	?       exactly one byte
//	[abc]   one of the bytes; [^abc] none of them; [a-c] a range, either way
//	        round; \x inside the brackets is the byte x; a missing ] ends the
//	        class at the end of the pattern
//	\x      the byte x itself
//
// The quirks are those of Redis 7.0, because clients can see them: an empty
// string matches the empty pattern only (so "*" does not match ""), ranges
// compare bytes as signed numbers, and an escaped byte in a class compares
// with case even where case is ignored.
//
// Downside: one byte is one character, so ? matches a third of a "€".
package glob

// Match reports whether s as a whole matches pattern. With nocase, ASCII
// letters match without case. Time is at most len(pattern)*len(s) steps, and
// neither allocation nor recursion happens, whatever the pattern; both slices
// are only read.
func Match(pattern, s []byte, nocase bool) bool {
	p, i := 0, 0
	// The latest star: where its pattern goes on, and from which byte of s the
	// rest was last tried. An earlier star never has to be tried again: what it
	// could gain by taking more bytes, the latest star can take as well.
	starPattern, starString := -1, 0
	for {
		if p < len(pattern) && i < len(s) {
			if pattern[p] == '*' {
				for p < len(pattern) && pattern[p] == '*' {
					p++
				}
				if p == len(pattern) {
					return true
				}
				starPattern, starString = p, i
				continue
			}
			if next, ok := matchOne(pattern, p, s[i], nocase); ok {
				p = next
				i++
				if i == len(s) {
					for p < len(pattern) && pattern[p] == '*' {
						p++
					}
				}
				continue
			}
		} else if p == len(pattern) && i == len(s) {
			return true
		}
		if starPattern < 0 || starString+1 >= len(s) {
			return false
		}
		starString++
		p, i = starPattern, starString
	}
}

// matchOne matches the single pattern element at pattern[p], which is not a
// star, against c. It returns the index after the element.
func matchOne(pattern []byte, p int, c byte, nocase bool) (next int, ok bool) {
	switch pattern[p] {
	case '?':
		return p + 1, true
	case '[':
		return matchClass(pattern, p+1, c, nocase)
	case '\\':
		if p+1 < len(pattern) {
			p++
		}
	}
	return p + 1, equal(pattern[p], c, nocase)
}

// matchClass matches the bracket expression whose first byte after the '[' is
// pattern[p].
func matchClass(pattern []byte, p int, c byte, nocase bool) (next int, ok bool) {
	negate := p < len(pattern) && pattern[p] == '^'
	if negate {
		p++
	}
	match := false
	for p < len(pattern) && pattern[p] != ']' {
		left := len(pattern) - p
		switch {
		case left >= 2 && pattern[p] == '\\':
			p++
			match = match || pattern[p] == c
		case left >= 3 && pattern[p+1] == '-':
			match = match || inRange(pattern[p], pattern[p+2], c, nocase)
			p += 2
		default:
			match = match || equal(pattern[p], c, nocase)
		}
		p++
	}
	if p < len(pattern) {
		p++ // the closing bracket
	}
	return p, match != negate
}

// inRange orders the ends before it folds their case, as Redis does, and
// compares as the signed char of the platforms that Redis is built for.
func inRange(from, to, c byte, nocase bool) bool {
	if int8(from) > int8(to) {
		from, to = to, from
	}
	if nocase {
		from, to, c = lower(from), lower(to), lower(c)
	}
	return int8(c) >= int8(from) && int8(c) <= int8(to)
}

func equal(a, b byte, nocase bool) bool {
	return a == b || nocase && lower(a) == lower(b)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
