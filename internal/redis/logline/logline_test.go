package logline

import (
	"encoding/json"
	"testing"
	"time"

	"holdfast/internal/redis/config"
)

func TestLinesHaveTheFormThatWasAskedFor(t *testing.T) {
	now := time.Date(2026, 11, 21, 5, 30, 2, 633e6, time.UTC)
	got := string(Append(nil, config.LogFormatLegacy, now, 4899, Master, config.LogNotice, "Ready to accept connections"))
	if want := "4899:M 21 Nov 2026 05:30:02.633 * Ready to accept connections\n"; got != want {
		t.Errorf("legacy: %q, want %q", got, want)
	}
	got = string(Append(nil, config.LogFormatLogfmt, now, 1, Sentinel, config.LogWarning, "a \"b\""))
	if want := "time=2026-11-21T05:30:02.633Z level=warning role=sentinel pid=1 msg=\"a \\\"b\\\"\"\n"; got != want {
		t.Errorf("logfmt: %q, want %q", got, want)
	}
	var line struct {
		Level, Role, Msg string
		Pid              int
	}
	msg := "quote \" backslash \\ newline \n bell \a umlaut ä"
	if err := json.Unmarshal(Append(nil, config.LogFormatJSON, now, 7, Replica, config.LogDebug, msg), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "debug" || line.Role != "replica" || line.Msg != msg || line.Pid != 7 {
		t.Errorf("json: %+v", line)
	}
}
