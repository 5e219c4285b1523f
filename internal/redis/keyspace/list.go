package keyspace

import (
	"holdfast/internal/redis/listpack"
)

// List is a handle on a list.
type List struct {
	r   Ref
	big *bigList // nil: the small form
}

// List returns the handle of the list r.
func (db *DB) List(r Ref) List {
	l := List{r: r}
	if obj := db.large(r); obj != nil {
		l.big = obj.(*bigList)
	}
	return l
}

// NewList creates an empty list under key, which must not exist. The caller adds
// an element or deletes the key.
func (db *DB) NewList(key []byte) List {
	return List{r: db.newBlob(key, TypeList, formBlob, emptyListpack)}
}

// Ref returns the entry of the list, which changes may have moved.
func (l *List) Ref() Ref { return l.r }

func (l *List) blob() []byte { return l.r.db.blob(l.r) }

func (l *List) fill() int { return l.r.db.ks.limits.ListMaxListpackSize }

// Len returns the number of elements.
func (l *List) Len() int {
	if l.big != nil {
		return l.big.n
	}
	return listpack.Len(l.blob())
}

// smallAllows reports whether the small form may take an element of add bytes.
func (l *List) smallAllows(lp []byte, add int) bool {
	return len(lp)+add <= listBlobBytes && nodeAllows(l.fill(), len(lp), listpack.Len(lp), add)
}

// Nodes returns the number of listpacks that the list consists of, and their
// bytes without the free room in their blocks, for DEBUG OBJECT.
func (l *List) Nodes() (nodes int, bytes int64) {
	if l.big == nil {
		return 1, int64(len(l.blob()))
	}
	for i := range l.big.dir {
		bytes += int64(l.big.dir[i].size)
	}
	return len(l.big.dir), bytes
}

// PushHead puts v before the first element.
func (l *List) PushHead(v []byte) { l.push(true, v) }

// PushTail puts v behind the last element.
func (l *List) PushTail(v []byte) { l.push(false, v) }

func (l *List) push(head bool, v []byte) {
	db := l.r.db
	db.beforeWrite(l.r)
	if l.big == nil {
		if lp := l.blob(); l.smallAllows(lp, len(v)) {
			lp = db.ks.coll.room(lp, listpack.EncodedLen(v))
			if head {
				lp = listpack.Prepend(lp, v)
			} else {
				lp = listpack.Append(lp, v)
			}
			l.r = db.setBlob(l.r, formBlob, lp)
			return
		}
		l.expand()
	}
	l.big.push(l.fill(), head, v)
}

// expand gives the list its large form.
func (l *List) expand() {
	big := newBigList(l.r.db.ks.arena)
	if lp := l.blob(); listpack.Len(lp) > 0 {
		big.addChunk(lp, listpack.Len(lp))
	}
	l.r = l.r.db.promote(l.r, big)
	l.big = big
}

// AppendNode puts the elements of a validated listpack behind the last one, as
// the nodes of an RDB file come.
func (l *List) AppendNode(lp []byte) {
	n := listpack.Len(lp)
	if n == 0 {
		return
	}
	db := l.r.db
	db.beforeWrite(l.r)
	if l.big == nil {
		if l.Len() == 0 && len(lp) <= listBlobBytes {
			l.r = db.setBlob(l.r, formBlob, lp)
			return
		}
		l.expand()
	}
	l.big.addChunk(lp, n)
}

// PopHead removes the first element and returns it, valid until the next call
// on the keyspace. The list must not be empty; the caller deletes the key if that was
// the last element.
func (l *List) PopHead() []byte { return l.pop(true) }

// PopTail is PopHead for the last element.
func (l *List) PopTail() []byte { return l.pop(false) }

func (l *List) pop(head bool) []byte {
	db := l.r.db
	db.beforeWrite(l.r)
	if l.big != nil {
		return l.big.pop(&db.ks.coll, head)
	}
	lp := l.blob()
	off := listpack.First(lp)
	if !head {
		off = listpack.Last(lp)
	}
	v := db.ks.coll.keepPopped(lp, off)
	l.r = db.setBlob(l.r, formBlob, listpack.Delete(lp, off, 1))
	return v
}

// at turns an index that may count from the end, from -1 on, into one from the
// start; ok tells whether it exists.
func (l *List) at(i int) (_ int, ok bool) {
	n := l.Len()
	if i < 0 {
		i += n
	}
	return i, i >= 0 && i < n
}

// Index returns the element at position i, or from the end if i is negative,
// valid until the next call on the keyspace.
func (l *List) Index(i int) ([]byte, bool) {
	i, ok := l.at(i)
	if !ok {
		return nil, false
	}
	c := &l.r.db.ks.coll
	if l.big != nil {
		chunk, pos := l.big.locate(i)
		lp := l.big.dir[chunk].listpack(l.big.a)
		return c.text(lp, listpack.Seek(lp, pos)), true
	}
	lp := l.blob()
	return c.text(lp, listpack.Seek(lp, i)), true
}

// SetAt replaces the element at position i, or from the end if i is negative.
// It reports whether there is one.
func (l *List) SetAt(i int, v []byte) bool {
	i, ok := l.at(i)
	if !ok {
		return false
	}
	db := l.r.db
	db.beforeWrite(l.r)
	if l.big == nil {
		lp := l.blob()
		off := listpack.Seek(lp, i)
		old := elementEnd(lp, off) - off
		if now := listpack.EncodedLen(v); now <= old || l.smallAllows(lp, len(v)-old) {
			lp = db.ks.coll.room(lp, now-old)
			l.r = db.setBlob(l.r, formBlob, listpack.Replace(lp, off, v))
			return true
		}
		l.expand()
	}
	l.big.setAt(l.fill(), i, v)
	return true
}

// InsertAt puts v before position i, 0 <= i <= Len.
func (l *List) InsertAt(i int, v []byte) {
	n := l.Len()
	if i <= 0 || i >= n {
		l.push(i <= 0 && n > 0, v)
		return
	}
	db := l.r.db
	db.beforeWrite(l.r)
	if l.big == nil {
		if lp := l.blob(); l.smallAllows(lp, len(v)) {
			lp = db.ks.coll.room(lp, listpack.EncodedLen(v))
			l.r = db.setBlob(l.r, formBlob, listpack.InsertBefore(lp, listpack.Seek(lp, i), v))
			return
		}
		l.expand()
	}
	l.big.insertAt(l.fill(), i, v)
}

// RemoveRange removes up to n elements from position start >= 0 on. The caller
// deletes the key if none remains.
func (l *List) RemoveRange(start, n int) {
	n = min(n, l.Len()-start)
	if start < 0 || n <= 0 {
		return
	}
	db := l.r.db
	db.beforeWrite(l.r)
	if l.big != nil {
		l.big.removeRange(start, n)
		return
	}
	lp := l.blob()
	l.r = db.setBlob(l.r, formBlob, listpack.Delete(lp, listpack.Seek(lp, start), n))
}

// RemoveMatching removes elements equal to v: the first count, or the last -count if
// count is negative, or all if it is 0. It returns how many. The caller deletes the key
// if none remains.
func (l *List) RemoveMatching(v []byte, count int) int {
	db := l.r.db
	db.beforeWrite(l.r)
	back := count < 0
	limit := max(count, -count)
	if limit <= 0 { // 0, or the smallest integer
		limit = l.Len()
	}
	if l.big != nil {
		return l.big.removeMatching(v, limit, back)
	}
	lp, removed := removeFrom(l.blob(), v, limit, back)
	if removed > 0 {
		l.r = db.setBlob(l.r, formBlob, lp)
	}
	return removed
}

// removeFrom deletes up to limit elements equal to v, from one end on.
func removeFrom(lp, v []byte, limit int, back bool) (_ []byte, removed int) {
	if back {
		for off := listpack.Last(lp); off >= 0 && removed < limit; {
			prev := listpack.Prev(lp, off)
			if listpack.Equal(lp, off, v) {
				lp = listpack.Delete(lp, off, 1)
				removed++
			}
			off = prev
		}
		return lp, removed
	}
	off := listpack.Find(lp, listpack.First(lp), v, 0)
	for off >= 0 {
		lp = listpack.Delete(lp, off, 1)
		if removed++; removed == limit || listpack.IsEnd(lp, off) {
			break
		}
		off = listpack.Find(lp, off, v, 0)
	}
	return lp, removed
}

// Each calls fn for the elements from position from on, towards the end, or towards
// the start when reverse is set, until it returns false. from may count from the end. The
// slice is valid during the call; fn must not change the list.
func (l *List) Each(from int, reverse bool, fn func(i int, v []byte) bool) {
	i, ok := l.at(from)
	if !ok {
		return
	}
	var buf []byte
	if l.big == nil {
		lp := l.blob()
		eachIn(lp, listpack.Seek(lp, i), &i, reverse, &buf, fn)
		return
	}
	chunk, pos := l.big.locate(i)
	lp := l.big.dir[chunk].listpack(l.big.a)
	off := listpack.Seek(lp, pos)
	for eachIn(lp, off, &i, reverse, &buf, fn) {
		if reverse {
			chunk--
		} else {
			chunk++
		}
		if chunk < 0 || chunk == len(l.big.dir) {
			return
		}
		lp = l.big.dir[chunk].listpack(l.big.a)
		if reverse {
			off = listpack.Last(lp)
		} else {
			off = listpack.First(lp)
		}
	}
}

// eachIn calls fn for the elements of one node from off on, the first of which
// has the position *i in the list; more is false when fn wants no more.
func eachIn(lp []byte, off int, i *int, reverse bool, buf *[]byte, fn func(int, []byte) bool) (more bool) {
	for off >= 0 {
		if !fn(*i, textOf(lp, off, buf)) {
			return false
		}
		if reverse {
			off = listpack.Prev(lp, off)
			*i--
		} else {
			off = listpack.Next(lp, off)
			*i++
		}
	}
	return true
}
