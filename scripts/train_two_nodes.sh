#!/usr/bin/env bash
# Swin-T on two machines of 8 GPUs (16 x 64 images = the recipe's batch of 1024). Run it on both, with the same arguments
# and the same --output on a disk that both see. When one is cut off for longer than DIST_TIMEOUT, both go back to the
# last checkpoint and wait for each other, for ten minutes and three times at most.
# Usage: MASTER=first-host NODE_RANK=0|1 bash scripts/train_two_nodes.sh IMAGENET_FOLDER [arguments for main.py]
# LOCAL_ADDR=address-of-this-machine as well where its own name is not what the other one finds it by.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${1:?give the folder of ImageNet, with train/ and val/}
shift
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90 # seconds that a stopped run has to finish its update and save
is_host=$((1 - ${NODE_RANK:?0 on the first machine, 1 on the second}))
exec torchrun --nnodes=2 --max-restarts=3 --rdzv-backend=c10d --rdzv-id=swin \
    --rdzv-endpoint="${MASTER:?name of the first machine}:${PORT:-29500}" \
    --rdzv-conf="is_host=$is_host,read_timeout=600" ${LOCAL_ADDR:+--local-addr="$LOCAL_ADDR"} \
    --nproc-per-node="${GPUS:-8}" main.py --cfg configs/swin_tiny.yaml --data-path "$data" --batch-size 64 "$@"
