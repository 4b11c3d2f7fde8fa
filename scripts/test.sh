#!/usr/bin/env bash
# Sets up and runs the tests. Usage: bash scripts/test.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh test
exec python -m pytest "$@"
