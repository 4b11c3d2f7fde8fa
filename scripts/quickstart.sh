#!/usr/bin/env bash
# Sets up, trains a small Swin Transformer on real images of handwritten digits, evaluates it, predicts one image and
# shows what it learned.
# Usage: bash scripts/quickstart.sh [arguments for main.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

run=output/swin_digits/quickstart
rm -rf "$run"
echo "== Training configs/swin_digits.yaml"
begin=$SECONDS
python main.py --cfg configs/swin_digits.yaml --tag quickstart "$@"
echo "== Trained in $((SECONDS - begin)) s. Evaluating best.pth"
python main.py --cfg configs/swin_digits.yaml --tag quickstart --eval --resume "$run/checkpoints/best.pth" "$@"

echo "== Predicting one image of the test set"
python -c "from data.digits import save_test_image; save_test_image('$run/sample_digit.png')"
python -m tools.predict --checkpoint "$run/checkpoints/best.pth" --input "$run/sample_digit.png" --top-k 3

cat <<EOT

All of it is in $run. What it learned, to open in a browser: $run/report.html
What to run next:
  source .venv/bin/activate
  tensorboard --logdir output                                              # the curves
  python -m tools.start --data-path FOLDER                                 # your own images: writes a config for them
  torchrun --nproc-per-node=8 main.py --cfg configs/swin_tiny.yaml --data-path IMAGENET
EOT
