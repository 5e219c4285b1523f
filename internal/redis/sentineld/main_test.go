package sentineld

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// The test binary is also the Sentinel process that the tests start, so that
// it can be killed and paused like one.
const runAsSentinel = "HOLDFAST_TEST_SENTINEL"

func TestMain(m *testing.M) {
	if os.Getenv(runAsSentinel) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := Run(ctx, Options{Args: os.Args[1:]})
		stop()
		var exit ExitError
		switch {
		case errors.As(err, &exit):
			os.Exit(exit.Code)
		case err != nil:
			fmt.Fprintf(os.Stderr, "\n%s", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
