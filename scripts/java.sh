#!/usr/bin/env bash
# Apache Kafka needs Java 17 and Maven (which fetches its jars). Install them where we may, and say so where we may not.
set -euo pipefail
[ -n "${COORDINATOR_KAFKA_BOOTSTRAP:-}" ] && exit 0
missing=()
command -v java >/dev/null 2>&1 || missing+=(default-jre-headless)
command -v mvn >/dev/null 2>&1 || missing+=(maven)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "== installing ${missing[*]} (for Apache Kafka, once)"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
  echo "Apache Kafka needs Java 17 and Maven here: apt-get install ${missing[*]}" >&2
  echo "(or set COORDINATOR_POSTGRES_URL and COORDINATOR_KAFKA_BOOTSTRAP to servers that you have)" >&2
  exit 1
fi
