package raid

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Mistakes of callers and states of the world. Errors of Create, Open and files
// wrap them; errors.Is finds them.
var (
	ErrNotArray  = errors.New("no array member: there is no superblock")
	ErrNotBlank  = errors.New("directory is not empty")
	ErrLocked    = errors.New("member directory is in use by another process")
	ErrFailed    = errors.New("array has failed: too few members are left")
	ErrReadOnly  = errors.New("array is open for reading only")
	ErrClosed    = errors.New("array is closed")
	ErrAppend    = errors.New("files of an array can only be appended to")
	ErrWrongSpec = errors.New("array is not of the kind that was asked for")
)

// SplitError says that two sets of members ran without each other, so that
// neither is merely older. Somebody must choose.
type SplitError struct {
	A, B []string // paths of the members of the two claims
	Text string
}

// Error implements error.
func (e *SplitError) Error() string {
	return fmt.Sprintf("members ran apart from each other: {%s} and {%s}: %s",
		strings.Join(e.A, ", "), strings.Join(e.B, ", "), e.Text)
}

// TooFewError says that the members that are there and current do not suffice.
type TooFewError struct {
	Need, Have int
	Text       string // which member is in which state
}

// Error implements error.
func (e *TooFewError) Error() string {
	return fmt.Sprintf("%d current members are there, %d are needed: %s", e.Have, e.Need, e.Text)
}

// CorruptError says that something that was durable is damaged beyond what the
// level repairs.
type CorruptError struct {
	Member string // path of a member directory
	File   string // in it
	Off    int64  // in the file
	Text   string
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s in %s is corrupt at offset %d: %s", e.File, e.Member, e.Off, e.Text)
}

// DataError says that a range of a file of the array can neither be read nor
// reconstructed.
type DataError struct {
	File     string
	Off, Len int64
	Reason   string
}

// Error implements error.
func (e *DataError) Error() string {
	return fmt.Sprintf("%s: bytes %d to %d cannot be read: %s", e.File, e.Off, e.Off+e.Len, e.Reason)
}

// FailedError says why the array has failed. It is ErrFailed.
type FailedError struct{ Text string }

// Error implements error.
func (e *FailedError) Error() string { return ErrFailed.Error() + ": " + e.Text }

// Is makes errors.Is(err, ErrFailed) true.
func (e *FailedError) Is(target error) bool { return target == ErrFailed }

// noRoom reports whether err says that a disk is full, which fails no member.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func pathError(op, path string, err error) error {
	return &fs.PathError{Op: op, Path: path, Err: err}
}
