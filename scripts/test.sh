#!/usr/bin/env bash
# Runs all tests and ends with the list of those that were skipped.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# -count=1: tests of the binary build it themselves, which the cache of results does not see.
go test -count=1 -timeout 900s -v ./... >"$log" 2>&1
code=$?
# Quiet where all is well: the packages' lines, and everything about failures.
grep -E '^(ok|FAIL|---? FAIL|panic:|\?)' "$log" | grep -v 'no test files' || true
if [ $code -ne 0 ]; then
  echo "---- output of the failing packages ----"
  # Output comes package by package; each ends with its verdict.
  awk '/^(=== (RUN|PAUSE|CONT|NAME)|[[:space:]]*--- (PASS|SKIP)|PASS$)/ { next }
       { held[n++] = $0 }
       /^(ok  |FAIL|\?   )\t/ { if (/^FAIL\t/) for (i = n > 250 ? n - 250 : 0; i < n; i++) print held[i]; n = 0 }' "$log"
fi
passed=$(grep -cE '^[[:space:]]*--- PASS' "$log")
failed=$(grep -cE '^[[:space:]]*--- FAIL' "$log")
skipped=$(grep -cE '^[[:space:]]*--- SKIP' "$log")
if [ "$skipped" -gt 0 ]; then
  echo "skipped:"
  grep -E '^[[:space:]]*--- SKIP' "$log" | sed -E 's/^[[:space:]]*--- SKIP: ([^ ]+).*/  \1/' | sort | uniq -c | sort -rn | awk '{print "  "$2}' | head -100
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $code
