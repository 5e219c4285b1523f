#!/usr/bin/env bash
# Runs every fuzz target for the time given, one after the other.
set -euo pipefail
time=${1:-1h}
for pkg in $(go list ./...); do
  for target in $(go test "$pkg" -list '^Fuzz' 2>/dev/null | grep '^Fuzz' || true); do
    echo "== $pkg $target for $time"
    go test "$pkg" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x
  done
done
