#!/usr/bin/env bash
# Swin-T on ImageNet-1K under SLURM; resubmits itself until training is done. The signal makes the run save and stop two
# minutes before the time limit, and the next job continues bit for bit from there.
# Usage: sbatch scripts/train_slurm.sh IMAGENET_FOLDER [arguments for main.py]
#SBATCH --job-name=swin
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=swin_%j.log
#SBATCH --open-mode=append
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?run this with sbatch}" || exit 2
data=${1:?give the folder of ImageNet, with train/ and val/}
port=$((20000 + SLURM_JOB_ID % 20000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" --rdzv-backend=c10d \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:$port" \
    main.py --cfg configs/swin_tiny.yaml --data-path "$data" --batch-size 64 "${@:2}"
status=$?
# A job that was stopped, or that lost a machine, goes back into the queue; the run resumes by itself.
[ "$status" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
