#!/usr/bin/env bash
# Sets up and runs the tests. Usage: bash scripts/test.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh test
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
# All of them: a process of one thread for each CPU, eight at most. Those of engines have processes of their own: after
# some hundred other tests the exporter to ONNX ends its process with a segmentation fault, and alone it does not.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
status=0
python -m pytest -n auto --maxprocesses 8 --ignore tests/engines || status=$?
python -m pytest -n auto --maxprocesses 8 tests/engines || status=$?
exit "$status"
