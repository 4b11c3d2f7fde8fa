"""Fine-tuning from weights of another data set, size, window and set of classes, through the real programs."""

import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from swin.weights.formats import FORMATS, from_native
from tests.conftest import ROOT

FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@pytest.fixture
def fashion_zip() -> Path:
    """Fashion-MNIST in the packed layout, in $SWIN_TEST_DATA/fashion_mnist_zip."""
    folder = Path(os.environ.get("SWIN_TEST_DATA", "")) / "fashion_mnist_zip"
    if not (folder / "train.zip").is_file():
        pytest.skip("set SWIN_TEST_DATA to the folder that has fashion_mnist_zip")
    return folder


# A run whose weights stay as they were loaded, so that its evaluation is that of the start. The head is mapped by name.
STAND_STILL = ["TRAIN.EPOCHS", "1", "TRAIN.BASE_LR", "1e-20", "TRAIN.MIN_LR", "0.0"]


def test_a_head_mapped_by_name_works_before_any_training(runner, shapes, tmp_path):
    plain = ["AUG.AUTO_AUGMENT", "none", "AUG.MIXUP", "0.0", "AUG.CUTMIX", "0.0", "AUG.REPROB", "0.0"]
    plain += ["AUG.COLOR_JITTER", "0.0", "AUG.CROP_PADDING", "2"]
    assert runner("source", "--opts", "TRAIN.EPOCHS", "12", "MODEL.DROP_PATH_RATE", "0.0", *plain) == 0
    target = tmp_path / "target"
    for old, new in (("stripes", "Stripes"), ("circle", "banana"), ("cross", "CROSS")):
        shutil.copytree(shapes / "train" / old, target / "train" / new)
        if new != "banana":  # validation images of the shared classes alone
            shutil.copytree(shapes / "val" / old, target / "val" / new)
    weights = runner.run_dir("source") / "checkpoints" / "last.pth"
    flags = ["--pretrained", str(weights), "--data-path", str(target), "--opts", *STAND_STILL]
    assert runner("target", *flags) == 0
    assert "head: 2 of 3 rows mapped by class name" in runner.text()
    [row] = runner.rows("target", "eval")
    print(f"accuracy on 2 shared classes of 3 before training: {row['correct1']}/{row['seen']}")
    assert row["seen"] == 67
    assert row["acc1"] > 70  # chance is a third


def test_pretrained_weights_start_a_run_at_another_size_window_and_channel_count(runner):
    assert runner("source") == 0
    weights = runner.run_dir("source") / "checkpoints" / "last.pth"
    options = ["DATA.IMG_SIZE", "56", "MODEL.SWIN.WINDOW_SIZE", "7", "MODEL.SWIN.IN_CHANS", "1"]
    options += ["DATA.MEAN", "[0.4]", "DATA.STD", "[0.2]"]
    assert runner("tuned", "--pretrained", str(weights), "--opts", *options) == 0
    text = runner.text()
    assert "resized 4 x relative_position_bias_table: window 4 to 7, bicubic" in text
    assert "resized 1 x patch_embed.proj.weight: 3 to 1 channels" in text
    # A resumed run does not start from the weights again.
    assert runner("tuned", "--pretrained", str(weights), "--opts", *options, "TRAIN.EPOCHS", "3") == 0
    assert "is not used, since the run is resumed" in runner.text()


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("flag", ["--resume", "--pretrained"])
def test_evaluation_takes_every_format_and_only_this_model(runner, tmp_path, format_name, flag):
    assert runner("source", "--opts", "TRAIN.EPOCHS", "1") == 0
    state = runner.checkpoint("source")["model"]
    torch.save(from_native(state, format_name, img_size=(32, 32)), tmp_path / "w.pth")
    assert runner("eval", "--eval", flag, str(tmp_path / "w.pth")) == 0
    evaluated = json.loads((runner.run_dir("eval") / "eval.json").read_text())
    last = str(runner.run_dir("source") / "checkpoints" / "last.pth")
    assert runner("eval", "--eval", "--resume", last) == 0
    again = json.loads((runner.run_dir("eval") / "eval.json").read_text())
    assert (evaluated.pop("checkpoint"), again.pop("checkpoint")) == (str(tmp_path / "w.pth"), last)
    assert again == evaluated
    runner.text()
    assert runner("eval", "--eval", flag, str(tmp_path / "w.pth"), "--opts", "MODEL.SWIN.WINDOW_SIZE", "8") == 2
    assert "does not fit the model of this config" in runner.text()


SMALL_SWIN = """
DATA:
  {{INTERPOLATION: bilinear, NUM_WORKERS: 0, BATCH_SIZE: {batch}, IMG_SIZE: {size}, MEAN: {mean}, STD: {std}, {data}}}
MODEL:
  NAME: small
  DROP_PATH_RATE: 0.0
  SWIN: {{PATCH_SIZE: 4, IN_CHANS: {channels}, EMBED_DIM: 48, DEPTHS: [2, 2], NUM_HEADS: [2, 4], WINDOW_SIZE: {window}}}
TRAIN: {{EPOCHS: {epochs}, WARMUP_EPOCHS: 0, LR_REFERENCE_BATCH: 0, BASE_LR: 2.0e-3, MIN_LR: 2.0e-5}}
AUG: {{AUTO_AUGMENT: none, COLOR_JITTER: 0.0, REPROB: 0.0, MIXUP: 0.0, CUTMIX: 0.0, HFLIP: 0.0, CROP_PADDING: 2}}
TEST: {{CROP: False}}
AMP_ENABLE: False
DEVICE: cpu
SAVE_FREQ: 100
"""
GREY3 = {"mean": "[0.286, 0.286, 0.286]", "std": "[0.353, 0.353, 0.353]", "channels": 3}
GREY1 = {"mean": "[0.305]", "std": "[0.376]", "channels": 1}


def train(folder: Path, config: Path, tag: str, *arguments: str) -> tuple[Path, float]:
    """Train with main.py; returns the run's folder and its last accuracy in percent, NaN where it has none."""
    command = [sys.executable, str(ROOT / "main.py"), "--cfg", str(config), "--output", str(folder / "out")]
    done = subprocess.run([*command, "--tag", tag, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = folder / "out" / "small" / tag
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return run, [math.nan, *(row["acc1"] for row in rows if row["kind"] == "eval")][-1]


def compare_starts(
    folder: Path, config: Path, weights: Path, *options: str
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    """Train from scratch and from weights with three seeds; returns and prints accuracies, means and deviations."""
    accuracies: dict[str, list[float]] = {"scratch": [], "pretrained": []}
    for seed in ("0", "1", "2"):
        for start, flags in (("scratch", []), ("pretrained", ["--pretrained", str(weights)])):
            _, accuracy = train(folder, config, f"{start}{seed}", *flags, "--opts", "SEED", seed, *options)
            accuracies[start].append(accuracy)
    means = {start: statistics.mean(values) for start, values in accuracies.items()}
    spreads = {start: statistics.stdev(values) for start, values in accuracies.items()}
    print({start: f"{means[start]:.2f} +- {spreads[start]:.2f}" for start in means}, accuracies)
    return accuracies, means, spreads


@pytest.mark.slow
def test_pretraining_on_clothes_helps_to_read_digits_at_another_size_and_window(fashion_zip, tmp_path):
    """28 px, window 7 and 3 channels on Fashion-MNIST; then 32 px, window 4 and 1 channel on scikit-learn's digits."""
    source = tmp_path / "source.yaml"
    data = "DATASET: imagenet, ZIP_MODE: True, CACHE_MODE: 'no'"
    source.write_text(SMALL_SWIN.format(batch=128, size=28, window=7, epochs=2, data=data, **GREY3))
    run, source_accuracy = train(tmp_path, source, "source", "--data-path", str(fashion_zip))
    weights = run / "checkpoints" / "last.pth"

    target = tmp_path / "target.yaml"
    target.write_text(SMALL_SWIN.format(batch=32, size=32, window=4, epochs=5, data="DATASET: digits", **GREY1))
    print(f"Fashion-MNIST after 2 epochs: {source_accuracy:.2f}%. Digits after 5 epochs, 3 seeds (mean, deviation):")
    accuracies, means, spreads = compare_starts(tmp_path, target, weights)
    assert min(accuracies["pretrained"]) > max(accuracies["scratch"])
    assert means["pretrained"] - means["scratch"] > 2 * max(spreads.values())


def extract(archive: Path, folder: Path, names: dict[str, str], count: int) -> None:
    """Write the first images of the classes in `names` (their names here to folder names there)."""
    with zipfile.ZipFile(archive) as packed:
        members = [name for name in packed.namelist() if name.endswith(".png")]
        for own, there in names.items():
            (folder / there).mkdir(parents=True)
            label = FASHION.index(own)
            for member in [name for name in members if name.startswith(f"{label}/")][:count]:
                image = Image.open(io.BytesIO(packed.read(member)))
                image.save(folder / there / Path(member).name)


@pytest.mark.slow
def test_clothes_that_two_label_sets_share_are_known_before_any_training(fashion_zip, tmp_path):
    """Trained on 7 classes; then 7 others, 4 of them shared, spelled otherwise and in another order."""
    old = {name: name for name in FASHION[:7]}
    new = {name: name for name in FASHION[7:]} | {
        "dress": "Dress",
        "coat": "COAT",
        "sandal": "sandal",
        "trouser": "Trouser",
    }
    shared = {name: there for name, there in new.items() if name in old}
    for root, names, count, validated in (("old", old, 1000, old), ("new", new, 20, shared)):
        extract(fashion_zip / "train.zip", tmp_path / root / "train", names, count)
        extract(fashion_zip / "val.zip", tmp_path / root / "val", validated, 200)
    config = tmp_path / "clothes.yaml"
    config.write_text(SMALL_SWIN.format(batch=64, size=28, window=7, epochs=4, data="DATASET: imagenet", **GREY3))
    run, _ = train(tmp_path, config, "old", "--data-path", str(tmp_path / "old"))
    weights = run / "checkpoints" / "last.pth"
    flags = ["--data-path", str(tmp_path / "new"), "--pretrained", str(weights), "--opts", *STAND_STILL]
    run, accuracy = train(tmp_path, config, "new", *flags)
    assert "head: 4 of 7 rows mapped by class name" in (run / "log.txt").read_text()
    print(f"accuracy on 4 shared classes of 7 before training: {accuracy:.1f}% of 800 images (chance 14.3%)")
    assert accuracy > 60


@pytest.mark.slow
def test_pretraining_without_labels_helps_where_labels_are_few(fashion_zip, tmp_path):
    """60,000 images of Fashion-MNIST once without labels; then 20 labelled ones a class, against a start at random."""
    muon = ["TRAIN.OPTIMIZER.NAME", "muon", "TRAIN.BASE_LR", "1e-2", "TRAIN.MIN_LR", "1e-5"]
    source = tmp_path / "source.yaml"
    data = "DATASET: imagenet, ZIP_MODE: True, CACHE_MODE: full, MASK_PATCH_SIZE: 8"
    grey = {**GREY1, "mean": "[0.286]", "std": "[0.353]"}
    source.write_text(SMALL_SWIN.format(batch=128, size=32, window=8, epochs=1, data=data, **grey))
    warm = ["TRAIN.WARMUP_EPOCHS", "0.1"]
    flags = ["--data-path", str(fashion_zip), "--opts", "TRAIN.LOSS", "simmim", *muon, *warm]
    run, _ = train(tmp_path, source, "source", *flags)
    losses = [row["loss"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]

    names = {name: name for name in FASHION}
    extract(fashion_zip / "train.zip", tmp_path / "few" / "train", names, 20)
    extract(fashion_zip / "val.zip", tmp_path / "few" / "val", names, 200)
    target = tmp_path / "target.yaml"
    target.write_text(SMALL_SWIN.format(batch=20, size=32, window=8, epochs=10, data="DATASET: imagenet", **grey))
    print(f"loss without labels {losses[0]:.3f} to {losses[-1]:.3f}; 10 epochs of 200 images, mean and deviation:")
    options = ["DATA.DATA_PATH", str(tmp_path / "few"), "TRAIN.WARMUP_EPOCHS", "1", *muon]
    accuracies, _, _ = compare_starts(tmp_path, target, run, *options)
    assert min(accuracies["pretrained"]) > max(accuracies["scratch"])
