#!/usr/bin/env bash
# Installs the genuine peers that interop tests run against, when it can:
# Debian's redis-server, redis-sentinel and redis-tools. Without them, those
# tests are skipped, and the end of the test run names them.
set -u
if command -v redis-server >/dev/null && command -v redis-sentinel >/dev/null && command -v redis-cli >/dev/null; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  # The packages start a server of their own; tests use theirs.
  mkdir -p /usr/sbin
  guard=/usr/sbin/policy-rc.d
  made=
  if [ ! -e "$guard" ]; then printf '#!/bin/sh\nexit 101\n' >"$guard" && chmod +x "$guard" && made=1; fi
  # A mirror or another process that holds apt's lock may fail once.
  installed=
  for pause in 0 5 20; do
    sleep "$pause"
    if { apt-get update -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=60 &&
      DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=60 redis-server redis-sentinel redis-tools; } >/dev/null 2>&1; then
      installed=1
      break
    fi
  done
  [ -n "$installed" ] || echo "peers: the packages redis-server, redis-sentinel and redis-tools could not be installed; tests against them will be skipped"
  [ -n "$made" ] && rm -f "$guard"
else
  echo "peers: no redis-server here and no right to install packages; tests against genuine Redis will be skipped"
fi
exit 0
