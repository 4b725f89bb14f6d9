#!/usr/bin/env bash
# Make the virtual environment in $1 from the lock file. Run by make, once.
set -euo pipefail
venv=$1
python=""
for candidate in python3.11 python3.12 python3.13 python3; do
  if command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "Python 3.11, 3.12 or 3.13 with venv is needed: apt-get install python3 python3-venv" >&2
  exit 1
fi
echo "   $("$python" --version), $(grep -c '==' requirements.lock) pinned packages"
"$python" -m venv "$venv"
# The lock names everything there is to install, so nothing is to be resolved (and no extra of another to be pinned).
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
