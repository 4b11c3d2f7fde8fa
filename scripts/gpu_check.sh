#!/usr/bin/env bash
# Runs the tests that need a GPU and the benchmarks of record, in ten minutes at most, and says what failed.
# Usage: bash scripts/gpu_check.sh [FOLDER for logs and figures; $OUT if that is set, else output/gpu_check]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-${OUT:-output/gpu_check}}
python=""
for candidate in "${PYTHON:-python3}" .venv/bin/python; do # what is installed will do: such a machine may have no network
    if [ -z "$python" ] && "$candidate" -c 'import torch, timm, pytest' 2>/dev/null; then python=$candidate; fi
done
if [ -z "$python" ]; then
    source scripts/setup.sh test
    python=python
fi
mkdir -p "$folder" || exit 2
"$python" - <<'EOT' || exit 2
import os, sys, torch
if not torch.cuda.is_available():
    sys.exit("error: torch finds no CUDA GPU, so there is nothing to check")
names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
print(f"== {', '.join(names)}; torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
EOT
nvidia-smi --query-gpu=driver_version,memory.total,clocks.max.sm,power.limit --format=csv 2>/dev/null

failed=()
part() { # NAME, SECONDS at most, arguments for Python
    local name=$1 limit=$2 left=$((590 - SECONDS)) begin=$SECONDS status
    shift 2
    limit=$((limit < left ? limit : left))
    if [ "$limit" -le 0 ]; then
        failed+=("$name (no time left)")
        return
    fi
    echo "== $name: python $*"
    timeout --kill-after=5 "$limit" "$python" -u "$@" 2>&1 | tee "$folder/$name.log"
    status=${PIPESTATUS[0]}
    echo "== $name: exit status $status after $((SECONDS - begin)) s"
    case $status in
        0) ;;
        124 | 137) failed+=("$name (cut off after $limit s)") ;;
        *) failed+=("$name (exit status $status)") ;;
    esac
}
bench() { # NAME, SECONDS at most, arguments for tools.benchmark
    part "$1" "$2" -m tools.benchmark "${@:3}" --json "$folder/$1.json"
}

both=(--against timm,torchvision --batch-size 64)
bench train_gpu 70 train "${both[@]}"
bench loop_gpu 40 loop --batch-size 64
bench model_gpu 40 model "${both[@]}"
bench train_gpu_compiled 90 train --against timm --batch-size 64 --dtype bf16 --compile default
part tests 300 -m pytest -m gpu -v -p no:cacheprovider -k "not compiled"
part tests_compiled 300 -m pytest -m gpu -v -p no:cacheprovider -k compiled

echo "== ${SECONDS} s in all; logs and figures are in $folder"
if [ "${#failed[@]}" -gt 0 ]; then
    printf '== FAILED: %s\n' "${failed[@]}"
    exit 1
fi
