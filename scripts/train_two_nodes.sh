#!/usr/bin/env bash
# Swin-T on two machines of 8 GPUs (16 x 64 images = the recipe's batch of 1024). Run it on both, with the same arguments.
# Usage: MASTER=first-host NODE_RANK=0|1 bash scripts/train_two_nodes.sh IMAGENET_FOLDER [arguments for main.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:?give the folder of ImageNet, with train/ and val/}
shift
exec torchrun --nnodes=2 --node-rank="${NODE_RANK:?0 on the first machine, 1 on the second}" \
    --rdzv-backend=static --master-addr="${MASTER:?name of the first machine}" --master-port="${PORT:-29500}" \
    --nproc-per-node="${GPUS:-8}" \
    main.py --cfg configs/swin_tiny.yaml --data-path "$data" --batch-size 64 "$@"
