"""One update of the weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from swin.batches import Batch
from swin.distributed import all_reduce_sum
from swin.engine.state import TrainState
from swin.optim import set_lr, step_if


@dataclass
class StepTotals:
    """Sums over the updates since the last log line, on the device; reading them is the one place that waits for it.

    `values` holds the sums of losses, samples, gradient norms and finite updates; `streak` the non-finite updates in a
    row up to now; `asked` the processes that were asked to stop, and the images replaced on any of them.
    """

    device: torch.device
    values: Tensor = field(init=False)
    streak: Tensor = field(init=False)
    asked: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.streak = torch.zeros((), device=self.device)
        self.reset()

    def reset(self) -> None:
        """Start the sums anew; the streak goes on."""
        self.values = torch.zeros(4, device=self.device)
        self.asked = torch.zeros(2, device=self.device)

    def add(self, loss: Tensor, samples: int, norm: Tensor, ok: Tensor, asked: Tensor) -> None:
        """Count one update; all tensors are on the device, and but for `asked` (2,) 0-d."""
        row = torch.stack([loss, torch.full_like(loss, samples), norm, torch.ones_like(loss)])
        self.values += torch.where(ok, row, torch.zeros_like(row))
        self.streak = torch.where(ok, torch.zeros_like(self.streak), self.streak + 1)
        self.asked += asked


def update_seed(*key: int) -> int:
    """An independent 63-bit seed for each key; another function would change the curves of all runs."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _no_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Context in which gradients stay on each process; nothing to do where there is only one."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def train_step(
    state: TrainState,
    step: int,
    batches: Iterator[Batch],
    lr: float,
    totals: StepTotals,
    failures: list[str],
    stop_requested: bool = False,
) -> int:
    """Draw the micro-batches of one update and apply it; nothing here waits for the device.

    The gradient is that of the mean loss over all samples of the update, however they are split into micro-batches and
    processes, and what is random is drawn for all of them, of which each part takes its own. Only elementwise dropout
    (MODEL.DROP_RATE) is drawn by process. If the loss or the gradient of any process is not finite, the update changes
    nothing on all of them.

    Args:
        state: the model in training.
        step: number of the update, which its random numbers follow from.
        batches: this process's micro-batches.
        lr: learning rate.
        totals: where the update is counted.
        failures: images that were replaced are added here.
        stop_requested: whether this process was asked to stop; others learn it by `totals`.

    Returns:
        Samples of the epoch, over all processes, which are done now.
    """
    device, world_size = state.dist.device, state.dist.world_size
    set_lr(state.optimizer, lr)
    seed, num_known = update_seed(state.seed, step, 0), len(failures)
    torch.manual_seed(update_seed(state.seed, step, state.dist.rank, 1))  # dropout
    mixing_seed, drop_paths, last = update_seed(seed, 0), None, False
    loss_sum = torch.zeros((), device=device)
    while not last:
        batch = next(batches)
        last = batch.last_of_update
        failures += batch.failures
        if drop_paths is None:
            drop_paths = state.model.draw_drop_paths(batch.update_size, torch.Generator().manual_seed(seed))
        # Of ordinary memory CUDA documents up to 64 KB, 682 images of 12 blocks, as copied without the host's waiting.
        own = None if drop_paths is None else drop_paths[..., batch.rows or [0]].to(device, non_blocking=True)
        images, targets = state.prepare(batch, device, mixing_seed)
        # DDP averages over processes, hence the factor world_size; only the last backward pass communicates.
        with _no_sync(state.network) if not last else nullcontext():
            with state.precision.autocast():
                losses = state.loss(state.network(images, own), targets)  # (b,)
            share = losses.sum() * float(batch.num_valid > 0)
            scaled = share * (world_size / batch.update_size)
            (state.scaler.scale(scaled) if state.scaler else scaled).backward()
        loss_sum += share.detach()

    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), state.clip_grad or torch.inf)
    bad = ~(torch.isfinite(loss_sum) & torch.isfinite(norm))
    counts = (float(stop_requested), float(len(failures) - num_known))
    shared = torch.stack([loss_sum, bad.float(), *(torch.full_like(loss_sum, count) for count in counts)])
    all_reduce_sum(shared)
    ok = shared[1] == 0
    step_if(state.optimizer, ok)
    state.optimizer.zero_grad(set_to_none=True)
    if state.scaler:
        state.scaler.update()
    if state.ema:
        state.ema.update(state.model, ok)
    totals.add(shared[0], batch.update_size, norm, ok, shared[2:])
    return batch.position
