package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/redis/command"
	"holdfast/internal/redis/config"
)

func (s *Server) configCommands() []command.Spec {
	return []command.Spec{
		{Name: "config", Arity: -2, Sub: []*command.Spec{
			{Name: "get", Arity: -3, Flags: adminTime, Run: s.cmdConfigGet},
			{Name: "help", Arity: 2, Flags: command.Loading | command.Stale, Run: cmdConfigHelp},
			{Name: "resetstat", Arity: 2, Flags: adminTime, Run: s.cmdConfigResetstat},
			{Name: "rewrite", Arity: 2, Flags: adminTime, Run: s.cmdConfigRewrite},
			{Name: "set", Arity: -4, Flags: adminTime, Tips: []string{"request_policy:all_nodes", "response_policy:all_succeeded"}, Run: s.cmdConfigSet},
		}},
	}
}

func (s *Server) cmdConfigGet(c *command.Ctx) {
	patterns := make([]string, 0, len(c.Args)-2)
	for _, a := range c.Args[2:] {
		patterns = append(patterns, string(a))
	}
	found := s.cfg.Get(patterns...)
	c.Map(len(found))
	for _, kv := range found {
		c.BulkStr(kv.Name)
		c.BulkStr(kv.Value)
	}
}

var redacted = []byte("(redacted)")

func (s *Server) cmdConfigSet(c *command.Ctx) {
	if len(c.Args)%2 != 0 {
		c.Err(command.ErrSyntax)
		return
	}
	pairs := make([]config.KV, 0, len(c.Args)/2-1)
	for i := 2; i < len(c.Args); i += 2 {
		name := string(c.Args[i])
		pairs = append(pairs, config.KV{Name: name, Value: string(c.Args[i+1])})
		if s.cfg.Sensitive(name) {
			c.Args[i+1] = redacted // from here on only SLOWLOG sees it
		}
	}
	_, err := s.cfg.SetIn(config.Circumstances{Local: c.Client.Local(), Loading: s.e.State.Loading}, pairs)
	if err == nil {
		c.OK()
		return
	}
	var refusal *config.SetError
	if errors.As(err, &refusal) {
		if refusal.Applied != "" {
			s.log.Warning("Failed applying new configuration. Possibly related to new %s setting. Restoring previous settings.", refusal.Applied)
		}
		c.Err(refusal.Code + " " + refusal.Text)
	} else {
		c.Err("ERR " + err.Error())
	}
}

func (s *Server) cmdConfigResetstat(c *command.Ctx) {
	s.resetStats()
	c.OK()
}

// resetStats is CONFIG RESETSTAT. The engine's lock is held.
func (s *Server) resetStats() {
	s.e.ResetStats()
	s.ks.ResetLazyFreed()
	d := &s.cron.defrag
	d.hits, d.misses, d.totalTime = 0, 0, 0
	st := &s.stat
	st.accepted, st.rejected, st.queryBufferClosed, st.outputClosed = 0, 0, 0, 0
	st.replyShrinks, st.replyGrows = 0, 0
	st.inBytes.Store(0)
	st.outBytes.Store(0)
	st.replInBytes.Store(0)
	st.replOutBytes.Store(0)
	st.reads.Store(0)
	st.writes.Store(0)
	for _, m := range []*sampler{&st.instOps, &st.instIn, &st.instOut, &st.instReplIn, &st.instReplOut} {
		*m = sampler{}
	}
	s.persist.saves, s.persist.ckpts, s.persist.checkpointFailures = 0, 0, 0
	s.repl.fullSyncs, s.repl.partialOK, s.repl.partialErr = 0, 0, 0
}

func (s *Server) cmdConfigRewrite(c *command.Ctx) {
	if s.cfg.File == "" {
		c.Err("ERR " + config.ErrNoFile.Error())
		return
	}
	if err := s.rewriteConfig(); err != nil {
		s.log.Warning("CONFIG REWRITE failed: %s", errnoText(err))
		c.Errf("ERR Rewriting config file: %s", errnoText(err))
		return
	}
	s.log.Notice("CONFIG REWRITE executed with success.")
	c.OK()
}

// rewriteConfig writes the present values to the configuration file, which is
// at any moment the old one or the new one as a whole.
func (s *Server) rewriteConfig() error {
	text, err := s.cfg.Rewrite()
	if err != nil {
		return err
	}
	return replaceFile(s.cfg.File, text)
}

// replaceFile gives path new contents by way of a file beside it. The mode of
// an existing file is kept.
func replaceFile(path string, text []byte) (err error) {
	mode := os.FileMode(0o644)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	// A link to the file stays a link.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that matters is err
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func cmdConfigHelp(c *command.Ctx) {
	c.Help(strings.Split(`GET <pattern>
    Return parameters matching the glob-like <pattern> and their values.
SET <directive> <value>
    Set the configuration <directive> to <value>.
RESETSTAT
    Reset statistics reported by the INFO command.
REWRITE
    Rewrite the configuration file.`, "\n")...)
}
