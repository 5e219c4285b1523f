package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/redis/server"
)

// ArrayServer is the array of a running server.
type ArrayServer struct {
	Addr     string
	Timeout  time.Duration // of one question
	Progress *Progress
}

// arrayCommand is the command of a server that has an array.
const arrayCommand = "HOLDFAST.ARRAY"

func (s ArrayServer) do(args ...string) (string, error) {
	v, err := ask(s.Addr, s.Timeout, append([]string{arrayCommand}, args...)...)
	if err != nil {
		if strings.Contains(err.Error(), "unknown command") {
			return "", fmt.Errorf("the server at %s has no disk array", s.Addr)
		}
		return "", fmt.Errorf("%s: %w", s.Addr, err)
	}
	return v.String(), nil
}

// Status asks for state and events.
func (s ArrayServer) Status() (*server.ArrayReply, error) {
	text, err := s.do("STATUS")
	if err != nil {
		return nil, err
	}
	r := new(server.ArrayReply)
	if err := json.Unmarshal([]byte(text), r); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Addr, err)
	}
	return r, nil
}

const pollEvery = 100 * time.Millisecond

// Scrub has the server scrub, and waits for the end.
// rate is in bytes per second, 0 is the server's own, negative without bound.
func (s ArrayServer) Scrub(ctx context.Context, restart bool, rate int64) (*server.ArrayReply, error) {
	args := []string{"SCRUB"}
	if restart {
		args = append(args, "RESTART")
	}
	if rate != 0 {
		args = append(args, "RATE", strconv.FormatInt(max(rate, 0), 10))
	}
	if _, err := s.do(args...); err != nil && !strings.Contains(err.Error(), "running already") {
		return nil, err
	}
	return s.wait(ctx, func(r *server.ArrayReply) (over bool, err error) {
		if p := r.Status.Scrub; p != nil {
			s.Progress.At("scrub", p.Done, p.Total)
		}
		if r.Scrub != nil {
			return !r.Scrub.Ended.IsZero() && r.Status.Scrub == nil, jobError(r.Scrub)
		}
		return r.Status.Scrub == nil, nil
	})
}

// Rebuild has the server take members back and waits until all are rebuilt.
func (s ArrayServer) Rebuild(ctx context.Context, dirs ...string) (*server.ArrayReply, error) {
	if _, err := s.do(append([]string{"REBUILD"}, dirs...)...); err != nil && !strings.Contains(err.Error(), "running already") {
		return nil, err
	}
	return s.waitRebuilt(ctx)
}

// Replace puts the directory fresh, on the server's machine, in the place of a
// member, and waits until it is rebuilt.
func (s ArrayServer) Replace(ctx context.Context, old, fresh string) (*server.ArrayReply, error) {
	if _, err := s.do("REPLACE", old, fresh); err != nil {
		return nil, err
	}
	return s.waitRebuilt(ctx)
}

func (s ArrayServer) waitRebuilt(ctx context.Context) (*server.ArrayReply, error) {
	return s.wait(ctx, func(r *server.ArrayReply) (over bool, err error) {
		if p := r.Status.Rebuild; p != nil {
			s.Progress.At("rebuild", p.Done, p.Total)
		}
		if r.Rebuild != nil {
			return !r.Rebuild.Ended.IsZero() && r.Status.Rebuild == nil, jobError(r.Rebuild)
		}
		return r.Status.Rebuild == nil, nil
	})
}

func jobError(j *server.ArrayJob) error {
	if j.Error == "" {
		return nil
	}
	return errors.New(j.Error)
}

// wait polls until over says so.
func (s ArrayServer) wait(ctx context.Context, over func(*server.ArrayReply) (bool, error)) (*server.ArrayReply, error) {
	defer s.Progress.End()
	for {
		r, err := s.Status()
		if err != nil {
			return nil, err
		}
		end, err := over(r)
		if end || err != nil {
			return r, err
		}
		if !sleep(ctx, pollEvery) {
			return r, ctx.Err()
		}
	}
}
