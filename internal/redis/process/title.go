package process

import (
	"os"
	"strings"

	"holdfast/internal/redis/config"
)

// titleArea is the memory in which the system keeps the command line, from the
// first byte to the last but its final zero; empty where that is not known.
var titleArea []byte

// OwnArgs makes os.Args copies and keeps the memory that they lay in for
// ShowTitle. It must be called first of all in main: strings cut from the old
// ones would change with what is shown.
func OwnArgs() {
	old := os.Args
	os.Args = make([]string, len(old))
	for i, arg := range old {
		os.Args[i] = strings.Clone(arg)
	}
	titleArea = argsArea(old)
}

// ShowTitle makes the process list show what proc-title-template says, title
// being the words by which the program was called, if set-proc-title says so and
// the command line has room for it.
func ShowTitle(cfg *config.Config, title string) {
	if !cfg.SetProcTitle || cfg.ProcTitleTemplate == "" {
		return
	}
	text, ok := cfg.ProcTitle(title)
	if !ok || text == "" || len(text) > len(titleArea) {
		return
	}
	clear(titleArea[copy(titleArea, text):])
}
