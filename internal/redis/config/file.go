package config

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// fileSystem is what loading needs of the world; tests replace it.
type fileSystem interface {
	readFile(path string) ([]byte, error)
	glob(pattern string) []string
	stdin() ([]byte, error)
	workingDir() string
	// enterDir returns the physical path of a directory that can be entered.
	enterDir(path string) (string, error)
	// tryLogFile reports whether the log file can be opened for appending.
	tryLogFile(path string) error
}

type osFiles struct{}

func (osFiles) readFile(path string) ([]byte, error) { return os.ReadFile(path) }

// glob leaves out hidden files that the pattern does not name, as glob(3) does.
func (osFiles) glob(pattern string) []string {
	all, err := filepath.Glob(pattern)
	if err != nil {
		return nil
	}
	hidden := strings.HasPrefix(filepath.Base(pattern), ".")
	var names []string
	for _, name := range all {
		if hidden || !strings.HasPrefix(filepath.Base(name), ".") {
			names = append(names, name)
		}
	}
	return names
}

func (osFiles) stdin() ([]byte, error) { return io.ReadAll(os.Stdin) }

func (osFiles) workingDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	return dir
}

func (osFiles) enterDir(path string) (string, error) {
	// Opening "x/." needs the permission that chdir needs, and fails as it does.
	f, err := os.Open(path + "/.")
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

func (osFiles) tryLogFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	return f.Close()
}

// strerror words a file error as C does, with a capital letter.
func strerror(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
