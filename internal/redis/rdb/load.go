package rdb

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strconv"
	"sync"
)

// A Visitor is told what a file holds, in the file's order. Slices are valid
// only during the call. An error ends the loading and is returned as it is
// (ErrDuplicate becomes an *Error).
//
// A key is BeginKey, then one of String, Blob, Opaque, or BeginCollection with
// its elements, then EndKey. A collection is told in the form that the file has
// it in, predecessors of the listpack converted:
//
//	list   BeginCollection(KindList), then any mix of ListNode and Element
//	set    Blob(KindSet, intset), or BeginCollection(KindSet) and Element
//	hash   Blob(KindHash, listpack), or BeginCollection(KindHash) and Pair
//	zset   Blob(KindZset, listpack), or BeginCollection(KindZset) and ScorePair
//
// Blobs and nodes are well-formed and not empty: no function of their packages
// fails on them, pairs are whole, scores are numbers. Without Options.Sanitize
// a damaged one may still hold a member twice or in the wrong order.
type Visitor interface {
	// Aux is a fact about the file, such as "redis-ver".
	Aux(key, val []byte) error
	// SelectDB says that the following keys are in database db, 0 <= db.
	SelectDB(db int) error
	// ResizeDB is a claim about the numbers of keys to come, for preparing.
	ResizeDB(keys, expires uint64) error
	// Function is the code of a function library.
	Function(code []byte) error

	BeginKey(key []byte, m Meta) error
	String(val []byte) error
	Blob(kind Kind, b []byte) error
	// BeginCollection begins a collection of n elements, or, for a list, n
	// nodes. n is what the input claims and is at least 1: allocate by it only
	// up to a bound.
	BeginCollection(kind Kind, n uint64) error
	// ListNode is a listpack of elements of a list.
	ListNode(lp []byte) error
	// Element, Pair and ScorePair return ErrDuplicate if a set, hash or zset
	// has the member already. Blob may, too.
	Element(val []byte) error
	Pair(field, val []byte) error
	ScorePair(member []byte, score float64) error
	// Opaque is a stream (TypeStream, TypeStream2), whose structure is sound.
	// raw is the value as it stands in the file.
	Opaque(t Type, raw []byte) error
	EndKey() error
}

// Options say how to decode.
type Options struct {
	// SkipChecksum does not compute and compare the checksum (rdbchecksum no).
	SkipChecksum bool
	// Sanitize looks into everything that Redis looks into with
	// sanitize-dump-payload: members twice, integers out of order. Without it
	// the Visitor must notice members that it is told twice.
	Sanitize bool
	// Progress is called with the number of bytes read, about every 64 KiB.
	Progress func(read int64)
	// OnEmpty is called for each key without elements, which is skipped. The key
	// is valid during the call.
	OnEmpty func(key []byte)
}

// Result is what Load says of a file that was read to its end.
type Result struct {
	Version   int    // of the format
	Bytes     int64  // size of the file, checksum included
	Keys      uint64 // keys told to the Visitor
	EmptyKeys uint64 // keys without elements, which were skipped
	// NoChecksum: the file has none (it was saved with rdbchecksum no).
	NoChecksum bool
	// Rest is what was read from the io.Reader beyond the end of the file, for
	// a stream in which more follows.
	Rest []byte
}

// decoder reads one input. They are pooled: a RESTORE should not allocate.
type decoder struct {
	input
	v     Visitor
	opts  Options
	key   scratch
	field scratch
	value scratch
	meta  Meta
	name  []byte // the key that is being read
	begun bool   // BeginKey was called for it
	lp    []byte // a ziplist or zipmap, converted
	dups  dupSet

	window []byte // the read buffer of Load
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

func getDecoder(v Visitor, opts Options) *decoder {
	d := decoders.Get().(*decoder)
	d.v, d.opts = v, opts
	d.begun, d.name, d.meta = false, nil, NoMeta
	return d
}

func putDecoder(d *decoder) {
	d.releaseMemory()
	d.input = input{tape: d.tape[:0]}
	d.v, d.name, d.opts = nil, nil, Options{}
	decoders.Put(d)
}

// releaseMemory gives back what one very large value took.
func (d *decoder) releaseMemory() {
	d.key.release()
	d.field.release()
	d.value.release()
	if cap(d.lp) > keepSize {
		d.lp = nil
	}
	if cap(d.tape) > keepSize {
		d.tape = nil
	}
}

// Load reads an RDB file from r and tells v what it holds. It needs memory for
// the largest single string or blob, not for the file. Bytes behind the end of
// the file may have been read: see Result.Rest. An error is an *Error, an error
// of r (wrapped), or the error of v.
func Load(r io.Reader, v Visitor, opts Options) (Result, error) {
	d := getDecoder(v, opts)
	defer putDecoder(d)
	if d.window == nil {
		d.window = make([]byte, readSize)
	}
	d.input = input{src: r, buf: d.window, summing: !opts.SkipChecksum, progress: opts.Progress, tape: d.tape}
	var res Result
	err := d.file(&res)
	res.Bytes = d.pos()
	if err == nil {
		res.Rest = append([]byte(nil), d.buf[d.r:d.w]...)
	}
	return res, err
}

func (d *decoder) file(res *Result) error {
	p, err := d.take(9)
	if err != nil {
		return err
	}
	if string(p[:5]) != "REDIS" {
		return d.fail(ErrVersion, "Wrong signature trying to load DB from file")
	}
	res.Version, err = strconv.Atoi(string(p[5:]))
	if err != nil || res.Version < 1 || res.Version > Version {
		return d.fail(ErrVersion, "Can't handle RDB format version %d", res.Version)
	}
	d.meta = NoMeta
	for {
		op, err := d.byte()
		if err != nil {
			return err
		}
		if op == opEOF {
			return d.trailer(res)
		}
		if Type(op).isValue() {
			err = d.loadKey(Type(op), res)
			d.meta = NoMeta
		} else {
			err = d.opcode(op)
		}
		if err != nil {
			return err
		}
	}
}

// trailer reads the checksum.
func (d *decoder) trailer(res *Result) error {
	if res.Version < 5 {
		return nil
	}
	d.settle()
	sum := d.crc
	d.summing = false
	p, err := d.take(8)
	if err != nil {
		return err
	}
	want := binary.LittleEndian.Uint64(p)
	res.NoChecksum = want == 0
	if want != 0 && !d.opts.SkipChecksum && want != sum {
		return d.fail(ErrChecksum, "Wrong RDB checksum expected: (%x) but got (%x). Aborting now.", sum, want)
	}
	return nil
}

// opcode reads what stands in the place of a key.
func (d *decoder) opcode(op byte) error {
	switch op {
	case opExpireMs:
		p, err := d.take(8)
		if err == nil {
			d.meta.ExpireMs = int64(binary.LittleEndian.Uint64(p))
		}
		return err
	case opExpire:
		p, err := d.take(4)
		if err == nil {
			d.meta.ExpireMs = int64(int32(binary.LittleEndian.Uint32(p))) * 1000
		}
		return err
	case opFreq:
		b, err := d.byte()
		d.meta.Freq = int(b)
		return err
	case opIdle:
		n, err := d.count()
		if err == nil && n > math.MaxInt64 {
			err = d.fail(ErrCorrupt, "idle time of %d seconds", n)
		}
		d.meta.IdleSec = int64(n)
		return err
	case opSelectDB:
		n, err := d.count()
		if err != nil {
			return err
		}
		if n > math.MaxInt32 {
			return d.fail(ErrCorrupt, "database number %d", n)
		}
		return d.v.SelectDB(int(n))
	case opResizeDB:
		keys, err := d.count()
		if err != nil {
			return err
		}
		expires, err := d.count()
		if err != nil {
			return err
		}
		return d.v.ResizeDB(keys, expires)
	case opAux:
		key, err := d.str(&d.field, true)
		if err != nil {
			return err
		}
		val, err := d.str(&d.value, false)
		if err != nil {
			return err
		}
		return d.v.Aux(key, val)
	case opFunction2:
		code, err := d.str(&d.value, false)
		if err != nil {
			return err
		}
		return d.v.Function(code)
	case opFunctionPreGA:
		return d.fail(ErrCorrupt, "Pre-release function format not supported.")
	case opModuleAux:
		id, err := d.count()
		if err != nil {
			return err
		}
		return d.fail(ErrModule, "The RDB file contains AUX module data I can't load: no matching module '%s'", moduleName(id))
	}
	return d.fail(ErrCorrupt, "Unknown RDB encoding type %d", op)
}

// moduleName decodes the name of a module type from its identifier: nine
// characters of 6 bits, above 10 bits of version.
func moduleName(id uint64) string {
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var name [9]byte
	id >>= 10
	for i := len(name) - 1; i >= 0; i-- {
		name[i] = chars[id&63]
		id >>= 6
	}
	return string(name[:])
}

// loadKey reads a key and its value.
func (d *decoder) loadKey(t Type, res *Result) error {
	var err error
	if d.name, err = d.str(&d.key, true); err != nil {
		return err
	}
	d.begun = false
	err = d.loadValue(t)
	if errors.Is(err, ErrEmptyKey) && !d.begun {
		res.EmptyKeys++
		if d.opts.OnEmpty != nil {
			d.opts.OnEmpty(d.name)
		}
		return nil
	}
	if err != nil {
		return err
	}
	res.Keys++
	if cap(d.value.own) > keepSize || cap(d.tape) > keepSize {
		d.releaseMemory()
	}
	return d.v.EndKey()
}

// LoadValue reads the value of a DUMP payload that VerifyDump accepted, and
// tells it to v as the value of the given key. It does not verify the footer
// again. The payload is not changed, and nothing is allocated for it unless it
// is compressed or of an old form.
func LoadValue(payload, key []byte, m Meta, v Visitor, opts Options) error {
	if len(payload) < dumpFooterSize {
		return &Error{Reason: "DUMP payload version or checksum are wrong", Err: ErrShortRead}
	}
	d := getDecoder(v, opts)
	defer putDecoder(d)
	body := payload[:len(payload)-dumpFooterSize]
	d.input = input{buf: body, w: len(body), tape: d.tape}
	d.name, d.meta = key, m
	op, err := d.byte()
	if err != nil {
		return err
	}
	if !Type(op).isValue() {
		return d.fail(ErrCorrupt, "Unknown RDB encoding type %d", op)
	}
	if err := d.loadValue(Type(op)); err != nil {
		return err
	}
	return v.EndKey()
}

// VerifyDump says whether payload ends in the footer of a DUMP payload, of a
// version that can be read, with the right checksum. skipChecksum passes over
// the latter. What it does not say is whether the value is well-formed.
func VerifyDump(payload []byte, skipChecksum bool) error {
	const reason = "DUMP payload version or checksum are wrong"
	if len(payload) < dumpFooterSize {
		return &Error{Offset: int64(len(payload)), Reason: reason, Err: ErrShortRead}
	}
	at := len(payload) - dumpFooterSize
	footer := payload[at:]
	if v := binary.LittleEndian.Uint16(footer); v > Version {
		return &Error{Offset: int64(at), Reason: reason, Err: ErrVersion}
	}
	if !skipChecksum && CRC64(0, payload[:at+2]) != binary.LittleEndian.Uint64(footer[2:]) {
		return &Error{Offset: int64(at), Reason: reason, Err: ErrChecksum}
	}
	return nil
}
