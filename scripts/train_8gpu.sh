#!/usr/bin/env bash
# Swin-T on ImageNet-1K with all GPUs of one machine; 8 GPUs x 128 images = the recipe's batch of 1024.
# Usage: bash scripts/train_8gpu.sh IMAGENET_FOLDER [arguments for main.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:?give the folder of ImageNet, with train/ and val/}
shift
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90 # seconds that a stopped run has to finish its update and save
exec torchrun --standalone --nproc-per-node="${GPUS:-8}" main.py --cfg configs/swin_tiny.yaml --data-path "$data" "$@"
