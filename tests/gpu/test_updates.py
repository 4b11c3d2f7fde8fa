"""Updates, evaluation, loading and saving on a GPU: what waits for it, what memory they take, what stays consistent."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from data.loaders import EvalLoader, TrainLoader
from data.sources import ArrayImages
from swin.batches import Batch, EvalBatches
from swin.create import create_model
from swin.distributed import all_reduce_sum, from_main, gather
from swin.engine.checkpoint import CheckpointWriter, read_checkpoint
from swin.engine.precision import Precision
from swin.engine.state import TrainState
from swin.engine.step import StepTotals, train_step
from swin.errors import ConfigError
from swin.images import to_pixels
from tests.updates import RANDOM, evaluate_batches, make_batch, make_state, updates

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def never_waiting(device: torch.device) -> Iterator[None]:
    """Inside it an operation that waits for a GPU raises; nothing is checked on a CPU."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def train(state: TrainState, steps: range) -> StepTotals:
    totals, batches = StepTotals(state.dist.device), updates()
    state.network.train()
    for step in steps:
        train_step(state, step, batches, 1e-3, totals, [])
    return totals


SETTINGS = {
    "adamw": [],
    "sgd": ["TRAIN.OPTIMIZER.NAME", "sgd", "AUG.MIXUP_MODE", "elem"],
    "bce": ["TRAIN.LOSS", "bce", "AUG.MIXUP", "0.0", "AUG.CUTMIX", "0.0"],
    "class weights": ["TRAIN.CLASS_WEIGHTS", "balanced", "AUG.REMODE", "rand"],
    "checkpointing": ["TRAIN.USE_CHECKPOINT", "True"],
    "reference attention": ["MODEL.ATTENTION", "eager"],
}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_an_update_never_waits(device, setting, precision):
    state = make_state(device, Precision(device.type, DTYPES[precision]), *RANDOM, *SETTINGS[setting])
    train(state, range(2))  # constants are copied, and loss scaling finds its scale
    with never_waiting(device):
        totals = train(state, range(2, 5))
    loss, samples, norm, finite = totals.values.tolist()
    assert (samples, finite) == (18.0, 3.0)
    assert 0 < loss / samples < 10
    assert norm > 0


@pytest.mark.gpu
def test_an_update_that_waits_is_found(gpu):
    state = make_state(gpu, Precision("cuda", None))
    train(state, range(1))
    loss = state.objective.loss
    state.objective.loss = lambda logits, targets: loss(logits, targets) * float(logits.isfinite().all())
    with never_waiting(gpu), pytest.raises(RuntimeError, match="synchroniz"):
        train(state, range(1, 2))


class WatchedBatches(EvalBatches):
    """A first batch, and others that are not waited for."""

    num_samples = 4 + 4 + 3

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __iter__(self) -> Iterator[Batch]:
        yield make_batch([0, 1, 2, 3], update_size=4, is_last=True)
        with never_waiting(self.device):
            for count in (4, 3):
                yield make_batch(list(range(count)), update_size=count, is_last=True)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("precision", DTYPES)
def test_the_batches_of_an_evaluation_are_never_waited_for(device, precision):
    state = make_state(device, Precision(device.type, DTYPES[precision]))
    result = evaluate_batches(state, WatchedBatches(device))
    assert result.seen == 11
    assert 0 <= result.correct1 <= result.correct5 == 11  # of 5 classes


def test_an_update_that_is_not_finite_changes_nothing(device):
    state = make_state(device, Precision(device.type, torch.float16), "TRAIN.EMA.ENABLE", "True")
    train(state, range(3))
    scale = state.scaler.get_scale()
    before = [parameter.clone() for parameter in (*state.model.parameters(), *state.ema.shadow.values())]
    loss = state.objective.loss
    state.objective.loss = lambda logits, targets: loss(logits, targets) * torch.inf
    assert train(state, range(3, 4)).streak.item() == 1
    after = [*state.model.parameters(), *state.ema.shadow.values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    state.objective.loss = loss
    assert train(state, range(4, 5)).values[3].item() == 1
    # The scaler itself sees gradients, and those of an infinite loss are not finite.
    assert state.scaler.get_scale() == scale / 2


def test_a_checkpoint_is_the_state_at_its_time_though_training_goes_on(device, tmp_path):
    state = make_state(device, Precision(device.type, None), *RANDOM)
    train(state, range(3))
    writer = CheckpointWriter(tmp_path, keep=1)
    expected = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    content = {**state.state_dict(), "epoch": -1, "position": 0, "step": 3, "max_accuracy": 0.0, "config": {}}
    writer.write(content)
    train(state, range(3, 8))
    writer.wait()
    saved = read_checkpoint(tmp_path / "last.pth")["model"]
    for name, tensor in expected.items():
        assert torch.equal(saved[name], tensor.cpu()), name
    assert not torch.equal(saved["head.weight"], state.model.head.weight.cpu())


def test_collectives_and_gradients_of_a_single_process_with_a_group(device, tmp_path):
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group(
        backend, store=store, rank=0, world_size=1, device_id=device if backend == "nccl" else None
    )
    try:
        assert all_reduce_sum(torch.tensor([3.0], device=device)).item() == 3.0
        assert gather({"a": 1}) == [{"a": 1}]
        with pytest.raises(ConfigError, match="refused"):
            from_main(refuse)
        plain, wrapped = (make_state(device, Precision(device.type, None)) for _ in range(2))
        wrapped.model.load_state_dict(plain.model.state_dict())
        wrapped.network = DistributedDataParallel(
            wrapped.model, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )
        losses = [train(state, range(4)).values[0].item() for state in (plain, wrapped)]
    finally:
        torch.distributed.destroy_process_group()
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def refuse() -> None:
    raise ConfigError("refused")


def make_loaders(*, workers: int, pin: bool) -> tuple[TrainLoader, EvalLoader]:
    images = np.random.default_rng(0).integers(0, 256, (20, 12, 10, 3), dtype=np.uint8)
    source = ArrayImages(images, np.arange(20), map(str, range(20)))
    options = {"batch_size": 8, "num_workers": workers, "pin_memory": pin}
    return TrainLoader(source, transform=as_it_is, seed=0, **options), EvalLoader(source, transform=as_it_is, **options)


def as_it_is(content: object, name: str) -> tuple[torch.Tensor, tuple[()]]:
    return to_pixels(content), ()


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_loaded_batches_are_page_locked_and_equal_the_others(gpu, workers):
    for pinned, plain in zip(make_loaders(workers=workers, pin=True), make_loaders(workers=0, pin=False), strict=True):
        batches = (loader.epoch(0) if isinstance(loader, TrainLoader) else loader for loader in (pinned, plain))
        for one, other in zip(*batches, strict=True):
            assert one.images.is_pinned()
            assert one.labels.is_pinned()
            assert one.images.stride() == other.images.stride()
            assert torch.equal(one.images.to(gpu, non_blocking=True).cpu(), other.images)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.gpu
def test_checkpointing_lowers_the_peak_memory(gpu, capsys):
    peaks = []
    for use_checkpoint in (False, True):
        model = create_model("swin_tiny", use_checkpoint=use_checkpoint).to(gpu)
        torch.cuda.reset_peak_memory_stats(gpu)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(torch.randn(32, 3, 224, 224, device=gpu)).float().logsumexp(1).mean()
        loss.backward()
        peaks.append(torch.cuda.max_memory_allocated(gpu))
        del model, loss
    with capsys.disabled():
        print(f"\nSwin-T, 32 images, bf16: peak {peaks[0] / 2**20:.0f} MiB, checkpointing {peaks[1] / 2**20:.0f} MiB")
    assert peaks[1] < 0.7 * peaks[0]
