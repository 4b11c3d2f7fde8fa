#!/usr/bin/env bash
# Swin-T on ImageNet-1K under SLURM; resubmits itself until training is done. The signal makes the run save and stop two
# minutes before the time limit, and the next job continues bit for bit from there. Only a run that was stopped or lost a
# process goes back into the queue, and not when that has come three times at the same sample: an error would come again.
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
#SBATCH --requeue
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?run this with sbatch}" || exit 2
data=${1:?give the folder of ImageNet, with train/ and val/}
arguments=(--cfg configs/swin_tiny.yaml --data-path "$data" --batch-size 64 "${@:2}")

# An update and a checkpoint have to fit into these seconds after the signal: then torchrun kills (torch 2.11 after 30
# already), and data workers end (data/loaders.py reads this too). SLURM kills 30 s later, see --signal.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90
# A typo ends the job here, and so does what would make each job begin at the same place.
folder=$(python - "${arguments[@]}" <<'PYTHON'
import sys
from swin.config.flags import load_command_line, run_path
from swin.errors import SwinError
try:
    cfg = load_command_line(sys.argv[1:])[0]
except SwinError as error:
    sys.exit(f"error: {error}")
if cfg.MODEL.RESUME or not cfg.TRAIN.AUTO_RESUME:
    sys.exit("error: the next job is to continue from this one's checkpoints; leave out --resume and TRAIN.AUTO_RESUME")
print(run_path(cfg))
PYTHON
) || exit 2
status_file=$folder/status.json
before=$(cat "$status_file" 2>/dev/null)
port=$((20000 + SLURM_JOB_ID % 20000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" --rdzv-backend=c10d \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:$port" main.py "${arguments[@]}"
status=$?
# Launchers replace the run's exit status; its status.json keeps it. It does not change if the run was refused.
[ "$(cat "$status_file" 2>/dev/null)" != "$before" ] || exit "$status"
read -r state code samples < <(python -c '
import json, sys
status = json.load(open(sys.argv[1], encoding="utf-8"))
print(status["state"], status["exit_code"], status["samples"])' "$status_file")
case "$state $code" in # running: the main process was killed. failed with 1: it lost another.
    "stopped 3" | "running None" | "failed 1")
        times=$(grep -cs " sample $samples\$" "$folder/requeued.txt")
        if [ "${times:-0}" -ge 3 ]; then
            echo "error: the run has ended at sample $samples three times; not put back into the queue" >&2
        else
            echo "$(date -Is) job $SLURM_JOB_ID $state at sample $samples" >>"$folder/requeued.txt"
            scontrol requeue "$SLURM_JOB_ID"
        fi ;;
esac
exit "$status"
