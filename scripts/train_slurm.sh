#!/usr/bin/env bash
# Swin-T on ImageNet-1K under SLURM; resubmits itself until training is done. The signal makes the run save and stop two
# minutes before the time limit, and the next job continues bit for bit from there. Only a run that was stopped or lost a
# process goes back into the queue: an error would come again.
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
arguments=(--cfg configs/swin_tiny.yaml --data-path "$data" --batch-size 64 "${@:2}")

# Data workers outlive the signal by 20 s (data/loaders.py), torchrun waits 90 s before it kills, SLURM 120 s (--signal).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90
# Launchers replace the run's exit status; its status.json keeps it. A typo ends the job here.
folder=$(python -c 'import sys; from swin.config.flags import *; print(run_path(load_command_line(sys.argv[1:])[0]))' \
    "${arguments[@]}") || exit 2
status_file=$folder/status.json
before=$(cat "$status_file" 2>/dev/null)
port=$((20000 + SLURM_JOB_ID % 20000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" --rdzv-backend=c10d \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:$port" main.py "${arguments[@]}"
status=$?
after=$(cat "$status_file" 2>/dev/null)
[ "$after" != "$before" ] || exit "$status" # refused before it began
# running: the main process was killed. failed with 1: it lost another. Three times at most without a stop in between.
case "$(tr -d ' \n' <<<"$after")" in
    *'"state":"stopped"'*) scontrol requeue "$SLURM_JOB_ID" ;;
    *'"state":"running"'* | *'"state":"failed","exit_code":1,'*)
        [ "${SLURM_RESTART_COUNT:-0}" -ge 3 ] || scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
