#!/usr/bin/env bash
# The tests of the barrier need a Redis server. Install it where we may, and say so where we may not.
set -euo pipefail
command -v redis-server >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "== installing redis-server (for the tests of the barrier, once)"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server
else
  echo "The tests of the barrier need Redis: apt-get install redis-server" >&2
  exit 1
fi
