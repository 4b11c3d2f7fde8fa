"""The training loop from the command line on a GPU: number formats, compilation, several processes, resuming."""

import json
import math
from collections.abc import Callable

import pytest
import torch

from swin.engine import build
from swin.engine.precision import Precision

# What is left to learn from 78 images is soon learnt.
PLAIN = ["AUG.MIXUP", "0.0", "AUG.CUTMIX", "0.0", "AUG.REPROB", "0.0", "AUG.AUTO_AUGMENT", "none", "TRAIN.EPOCHS", "8"]
PLAIN += ["AUG.COLOR_JITTER", "0.0", "MODEL.LABEL_SMOOTHING", "0.0", "TRAIN.BASE_LR", "0.005"]
# Without noise that each kind of device draws by itself.
SAME = ["AUG.REPROB", "0.0", "TRAIN.EPOCHS", "3"]
FORMATS = {
    "fp32": [],
    "bf16": ["AMP_ENABLE", "True", "AMP_DTYPE", "bf16"],
    "fp16": ["AMP_ENABLE", "True", "AMP_DTYPE", "fp16"],
}


@pytest.fixture
def train(runner, device) -> Callable[..., list[float]]:
    """Runs main.py on the device under a tag; returns the losses of the updates."""

    def run(tag: str, *options: str, flags: tuple[str, ...] = (), on: str = device.type) -> list[float]:
        assert runner(tag, "--device", on, *flags, "--opts", *options) == 0, runner.text()
        return [row["loss"] for row in runner.rows(tag, "train")]

    return run


@pytest.mark.parametrize("precision", FORMATS)
def test_a_run_learns_in_each_format(train, runner, device, monkeypatch, precision):
    options = FORMATS[precision]
    if device.type == "cpu" and precision == "fp16":  # which the config refuses there
        monkeypatch.setattr(build, "choose_precision", lambda *_, **__: Precision("cpu", torch.float16))
        options = []
    losses = train("run", *options, *PLAIN, "TRAIN.EMA.ENABLE", "True")
    checkpoint = runner.checkpoint("run")
    assert len(losses) == 8 * 10 - checkpoint["skipped"]  # updates that loss scaling leaves out have no row
    assert checkpoint["skipped"] <= 2
    assert sum(losses[-10:]) / 10 < 0.9 * math.log(3)  # what guessing costs
    assert precision in runner.text()
    assert checkpoint["skipped"] == 0 or precision == "fp16"
    assert (checkpoint["scaler"] is not None) == (precision == "fp16")
    assert all(tensor.device.type == "cpu" for tensor in checkpoint["model"].values())


def test_overflows_skip_their_updates_and_halve_the_scale_until_there_are_none(train, runner, device, monkeypatch):
    # A loss of about 1 overflows float16 at a scale of 2**16 or more, its gradients at a little more.
    begin = 2.0**24
    monkeypatch.setattr(build, "choose_precision", lambda *_, **__: Precision(device.type, torch.float16))
    monkeypatch.setattr(Precision, "make_scaler", lambda self: torch.amp.GradScaler(self.device_type, init_scale=begin))
    losses = train("run", "TRAIN.MAX_NONFINITE", "30", *SAME)
    checkpoint = runner.checkpoint("run")
    assert 1 <= checkpoint["skipped"] < 20
    assert checkpoint["step"] == 3 * 10
    assert len(losses) == 30 - checkpoint["skipped"]  # PRINT_FREQ is 1
    assert checkpoint["scaler"]["scale"] == begin * 0.5 ** checkpoint["skipped"]
    assert all(value["step"] == 30 - checkpoint["skipped"] for value in checkpoint["optimizer"]["state"].values())


def test_checkpointing_and_micro_batches_change_nothing_but_roundings(train):
    whole = train("whole", *SAME)
    options = [*SAME, "DATA.BATCH_SIZE", "4", "TRAIN.ACCUMULATION_STEPS", "2"]
    parts = train("parts", *options, flags=("--use-checkpoint",))
    # Roundings of 6e-8 grow from update to update.
    assert parts == pytest.approx(whole, rel=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize(("mode", "accumulation"), [("default", 2), ("max-autotune", 1), ("max-autotune", 2)])
def test_compiled_training_follows_the_plain_one(gpu, runner, mode, accumulation):
    compare_compiled(runner, gpu, mode, accumulation)


@pytest.mark.slow
def test_compiled_training_follows_the_plain_one_on_a_cpu(runner):
    compare_compiled(runner, torch.device("cpu"), "default", 2)


def compare_compiled(runner, device: torch.device, mode: str, accumulation: int) -> None:
    """Losses of 30 updates: CUDA graphs are recorded in the second of each batch size and replayed from the third."""
    options = [*SAME, "DATA.BATCH_SIZE", str(8 // accumulation), "TRAIN.ACCUMULATION_STEPS", str(accumulation)]
    losses = []
    for tag in ("off", mode):
        arguments = ["--device", device.type, "--opts", *options, "TRAIN.COMPILE", tag, "TRAIN.EMA.ENABLE", "True"]
        assert runner(tag, *arguments) == 0, runner.text()
        losses.append([row["loss"] for row in runner.rows(tag, "train")])
    assert len(losses[0]) == 30
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    counts = [[row["correct1"] for row in runner.rows(tag, "eval")] for tag in ("off", mode)]
    assert counts[1] == pytest.approx(counts[0], abs=2)  # of 101 images, some near a border


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("attention", ["auto", "eager"])
@pytest.mark.usefixtures("deterministic")
def test_4_epochs_equal_2_and_2_bit_for_bit(train, runner, assert_equal_state, attention):
    options = ["TRAIN.EPOCHS", "4", "TRAIN.EMA.ENABLE", "True", "TRAIN.ACCUMULATION_STEPS", "2", "AUG.REPROB", "0.5"]
    options += ["MODEL.ATTENTION", attention]
    train("whole", *options)
    half = runner.run_dir("whole") / "checkpoints" / "ckpt_epoch_1.pth"
    train("continued", *options, flags=("--resume", str(half)))
    assert_equal_state(runner.checkpoint("whole"), runner.checkpoint("continued"))


def test_a_run_goes_from_a_gpu_to_a_cpu_and_back(train, runner):
    whole = train("whole", *SAME)
    for tag, source, epoch, on in (("there", "whole", 0, {"on": "cpu"}), ("back", "there", 1, {})):
        file = runner.run_dir(source) / "checkpoints" / f"ckpt_epoch_{epoch}.pth"
        moved = train(tag, *SAME, flags=("--resume", str(file)), **on)
    assert len(moved) == 10  # the last epoch's
    assert moved == pytest.approx(whole[20:], rel=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_talk_over_nccl(gpu, runner, processes):
    if torch.cuda.device_count() < processes:
        pytest.skip(f"needs {processes} GPUs, this machine has {torch.cuda.device_count()}")
    options = ["--device", "cuda", "--opts", *SAME]
    assert runner("alone", *options) == 0, runner.text()
    more = [*options, "DATA.BATCH_SIZE", str(8 // processes)]
    status, output = runner.finish(runner.start("together", *more, processes=processes), timeout=300)
    assert status == 0, output
    losses = [[row["loss"] for row in runner.rows(tag, "train")] for tag in ("alone", "together")]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    assert json.loads((runner.run_dir("together") / "status.json").read_text())["state"] == "done"
