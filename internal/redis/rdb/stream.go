package rdb

import "holdfast/internal/redis/listpack"

// streamIDSize is the size of a stream entry's identifier: milliseconds and
// sequence number, 8 bytes each, big endian.
const streamIDSize = 16

// stream reads a stream to its end, checks its structure, and hands over its
// bytes:
//
//	<nodes> then each <string: master ID, 16 bytes> <string: listpack>
//	<entries> <last ID: 2 lengths>
//	[ <first ID: 2> <max deleted ID: 2> <entries added> ]              TypeStream2
//	<groups> then each <string: name> <last ID: 2> [ <entries read> ]
//	  <pending> then each <ID, 16 bytes> <time, 8 bytes> <deliveries>
//	  <consumers> then each <string: name> <seen, 8 bytes> <pending> then each <ID, 16 bytes>
func (d *decoder) stream(t Type) error {
	d.settle()
	d.taping, d.tape = true, d.tape[:0]
	err := d.streamBody(t)
	d.settle()
	d.taping = false
	if err != nil {
		return err
	}
	if err := d.begin(); err != nil {
		return err
	}
	return d.v.Opaque(t, d.tape)
}

func (d *decoder) streamBody(t Type) error {
	if err := d.repeat(d.streamNode); err != nil {
		return err
	}
	lengths := 3
	if t == TypeStream2 {
		lengths += 5
	}
	if err := d.skipLengths(lengths); err != nil {
		return err
	}
	return d.repeat(func() error { return d.streamGroup(t) })
}

func (d *decoder) streamNode() error {
	id, err := d.str(&d.value, false)
	if err != nil {
		return err
	}
	if len(id) != streamIDSize {
		return d.fail(ErrCorrupt, "Stream node key entry is not the size of a stream ID")
	}
	lp, err := d.str(&d.value, false)
	if err != nil {
		return err
	}
	if listpack.Validate(lp, true) != nil {
		return d.fail(ErrCorrupt, "Stream listpack integrity check failed.")
	}
	if listpack.First(lp) < 0 {
		return d.fail(ErrCorrupt, "Empty listpack inside stream")
	}
	return nil
}

func (d *decoder) streamGroup(t Type) error {
	if _, err := d.str(&d.value, false); err != nil {
		return err
	}
	lengths := 2
	if t == TypeStream2 {
		lengths++
	}
	if err := d.skipLengths(lengths); err != nil {
		return err
	}
	if err := d.repeat(func() error {
		if _, err := d.take(streamIDSize + 8); err != nil {
			return err
		}
		return d.skipLengths(1)
	}); err != nil {
		return err
	}
	return d.repeat(func() error {
		if _, err := d.str(&d.value, false); err != nil {
			return err
		}
		if _, err := d.take(8); err != nil {
			return err
		}
		return d.repeat(func() error {
			_, err := d.take(streamIDSize)
			return err
		})
	})
}

// repeat reads a count and calls part so many times. Every part reads
// something, so that a false count ends in a short read.
func (d *decoder) repeat(part func() error) error {
	n, err := d.count()
	for ; err == nil && n > 0; n-- {
		err = part()
	}
	return err
}

func (d *decoder) skipLengths(n int) error {
	for range n {
		if _, err := d.count(); err != nil {
			return err
		}
	}
	return nil
}
