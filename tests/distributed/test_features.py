"""Averages, mixing, frozen parts, recomputed activations and a skipped update: two processes do what one does.

Run as a program, this file trains as one of several processes and writes what became of each setting.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data.prepare import build_prepare
from swin.batches import Batch, Data
from swin.create import build_model
from swin.distributed import Distributed, setup_distributed, shutdown
from swin.engine.build import build_state
from swin.engine.precision import Precision
from swin.engine.state import TrainState
from swin.engine.step import StepTotals, train_step
from tests.conftest import ROOT
from tests.updates import CLASSES, make_batch, make_config, make_lesson

UPDATES, BAD_UPDATE = 4, 1
# Nesterov's updates are linear in the gradient, where AdamW's first ones are its sign, which rounding may change.
PLAIN = ["TRAIN.OPTIMIZER.NAME", "sgd", "MODEL.DROP_PATH_RATE", "0.3", "AUG.MIXUP", "0.0", "AUG.CUTMIX", "0.0"]
AVERAGES = ["TRAIN.EMA.ENABLE", "True"]
SCHEDULE_FREE = ["TRAIN.OPTIMIZER.NAME", "schedulefree", "TRAIN.LR_SCHEDULER.NAME", "constant"]
SCHEDULE_FREE += ["TRAIN.OPTIMIZER.EPS", "1.0"]
SETTINGS = {
    "plain": PLAIN,
    "averages": [*PLAIN, *AVERAGES],
    "mixing": [*PLAIN, "AUG.MIXUP", "0.8", "AUG.CUTMIX", "1.0"],
    "freezing": [*PLAIN, "TRAIN.FREEZE", "['patch_embed', 'layers.0']"],
    "adapters": [*PLAIN, "MODEL.LORA.RANK", "2"],
    "checkpointing": [*PLAIN, "TRAIN.USE_CHECKPOINT", "True"],
    # A large epsilon: what is no matrix gets AdamW, and not the sign of a gradient near 0.
    "muon": [*PLAIN, "TRAIN.OPTIMIZER.NAME", "muon", "TRAIN.OPTIMIZER.EPS", "1.0"],
    "a teacher": PLAIN,
    "timm's lamb": [*PLAIN, "TRAIN.OPTIMIZER.NAME", "timm:lamb", "TRAIN.OPTIMIZER.ARGS", "{eps: 1.0}"],
    "schedule-free": [*PLAIN, *SCHEDULE_FREE],
    "a skipped update": [*PLAIN, *AVERAGES],
    "a skipped update, schedule-free": [*PLAIN, *SCHEDULE_FREE],
}


def make_state(dist: Distributed, *options: str, is_taught: bool = False) -> TrainState:
    cfg = make_config(*options)
    torch.manual_seed(0)
    prepare = build_prepare(cfg, CLASSES)
    data = Data(list("abcde"), None, None, prepare, prepare.normalise, class_counts=[])
    model = build_model(cfg, CLASSES)
    objective = make_lesson(model, prepare.normalise, features=0.5) if is_taught else None
    return build_state(cfg, model, data, Precision("cpu", None), dist, objective)


def updates(dist: Distributed) -> Iterator[Batch]:
    """Updates of two micro-batches of four and three images: both for one process, one each for two."""
    whole = make_batch(list(range(7)), update_size=7, is_last=True)
    parts = [[0, 1, 2, 3], [4, 5, 6]][dist.rank :: dist.world_size]
    while True:
        for rows in parts:
            part = make_batch(rows, update_size=7, is_last=rows == parts[-1])
            yield part._replace(images=whole.images[rows[0] : rows[-1] + 1], labels=whole.labels[rows])


def snapshot(state: TrainState) -> dict[str, torch.Tensor]:
    averages = state.ema.state_dict()["model"] if state.ema else {}
    auxiliary = dict(state.objective.auxiliary.named_parameters("auxiliary")) if state.objective.auxiliary else {}
    named = {
        **dict(state.model.named_parameters()),
        **auxiliary,
        **{f"average of {name}": each for name, each in averages.items()},
    }
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def train(dist: Distributed, setting: str) -> dict[str, Any]:
    """Train, and return sums and weights after each update; the second may be NaN in the last micro-batch alone."""
    state, batches = make_state(dist, *SETTINGS[setting], is_taught=setting == "a teacher"), updates(dist)
    state.network.train()
    loss, totals = state.objective.loss, StepTotals(dist.device)
    sums, streaks, weights = [], [], [snapshot(state)]

    def break_last(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Its gradient is finite in both processes: that the loss is not, one has to tell the other.
        return loss(logits, targets) + (torch.nan if len(logits) == 3 else 0.0)

    for step in range(UPDATES):
        state.objective.loss = break_last if setting.startswith("a skipped update") and step == BAD_UPDATE else loss
        train_step(state, step, batches, 0.05, totals, [])
        sums.append(totals.values.tolist())
        streaks.append(totals.streak.item())
        weights.append(snapshot(state))
        totals.reset()
    return {"sums": sums, "streaks": streaks, "weights": weights}


def train_all(dist: Distributed) -> dict[str, Any]:
    return {setting: train(dist, setting) for setting in SETTINGS}


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield train_all(Distributed(0, 1, 0, torch.device("cpu")))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes became."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error::FutureWarning", "-m", "tests.distributed.test_features", str(folder)],
            cwd=ROOT,
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_processes_are_equal_and_end_where_one_does(one, two, setting):
    first, second = (result[setting] for result in two)
    assert first["streaks"] == second["streaks"] == one[setting]["streaks"]
    for weights, others, expected in zip(first["weights"], second["weights"], one[setting]["weights"], strict=True):
        torch.testing.assert_close(weights, others, rtol=0, atol=0)
        # The same float32 numbers summed in another order, through four updates.
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    for sums, expected in zip(first["sums"], one[setting]["sums"], strict=True):
        assert sums == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_does_what_it_says(two, setting):
    plain, (begin, *_, end) = two[0]["plain"]["weights"][-1], two[0][setting]["weights"]
    unchanged = {name for name, tensor in begin.items() if torch.equal(tensor, end[name])}
    frozen = {name for name in begin if name.startswith(("patch_embed.", "layers.0."))}
    others = {name for name in begin if ".lora_" not in name and not name.startswith("head.")}
    assert unchanged == {"freezing": frozen, "adapters": others}.get(setting, set())
    if setting in ("averages", "checkpointing"):  # which change nothing of the training itself
        torch.testing.assert_close({name: end[name] for name in plain}, plain, rtol=1e-4, atol=1e-5)
    elif setting != "plain":
        assert not torch.equal(end["head.weight"], plain["head.weight"])
    if setting == "averages":
        assert not torch.equal(end["average of head.weight"], end["head.weight"])


@pytest.mark.parametrize("setting", ["a skipped update", "a skipped update, schedule-free"])
def test_an_update_that_is_not_finite_in_one_process_changes_nothing_in_both_and_the_next_counts(two, setting):
    for result in two:
        skipped = result[setting]
        assert [sums[3] for sums in skipped["sums"]] == [1.0, 0.0, 1.0, 1.0]
        assert skipped["streaks"] == [0.0, 1.0, 0.0, 0.0]
        before, after, following = skipped["weights"][BAD_UPDATE : BAD_UPDATE + 3]
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert all(not torch.equal(following[name], after[name]) for name in after)
        assert all(tensor.isfinite().all() for tensor in skipped["weights"][-1].values())


if __name__ == "__main__":
    dist = setup_distributed("cpu", timeout_sec=60)
    torch.save(train_all(dist), Path(sys.argv[1]) / f"{dist.rank}.pt")
    shutdown()
