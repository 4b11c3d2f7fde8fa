#!/usr/bin/env bash
# Sets up and runs the tests. Usage: bash scripts/test.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh test
if [ $# -eq 0 ]; then # all of them: a process of one thread for each CPU, eight at most
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    set -- -n auto --maxprocesses 8
fi
exec python -m pytest "$@"
