"""One update of the weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from swin.batches import Batch
from swin.distributed import all_reduce_sum
from swin.engine.state import TrainState
from swin.optim import set_lr, step_if


class StepTotals:
    """Sums over the updates since the last log line, on the device; reading them is the one place that waits for it.

    Attributes:
        values: sums of losses, samples, gradient norms and finite updates.
        streak: non-finite updates in a row up to now.
        asked: processes that were asked to stop, and images replaced on any of them.
    """

    def __init__(self, device: torch.device) -> None:
        self.streak = torch.zeros((), device=device)
        self.reset()

    def reset(self) -> None:
        """Start the sums anew; the streak goes on."""
        self.values, self.asked = self.streak.new_zeros(4), self.streak.new_zeros(2)

    def add(self, loss: Tensor, samples: int, norm: Tensor, ok: Tensor, asked: Tensor) -> None:
        """Count one update; all tensors are on the device, and but for `asked` (2,) 0-d."""
        row = torch.stack([loss, torch.full_like(loss, samples), norm, torch.ones_like(loss)])
        self.values += torch.where(ok, row, torch.zeros_like(row))
        self.streak = torch.where(ok, torch.zeros_like(self.streak), self.streak + 1)
        self.asked += asked


def train_step(
    state: TrainState,
    step: int,
    batches: Iterator[Batch],
    lr: float,
    totals: StepTotals,
    failures: list[str],
    stop_requested: bool = False,
) -> int:
    """Draw the micro-batches of update number `step` and apply it; nothing here waits for the device.

    The gradient is that of the mean loss over all samples of the update. If the loss or gradient of any process is not
    finite, the update changes nothing on all of them.

    Returns:
        Samples of the epoch, over all processes, which are done now. Why images were replaced is added to `failures`,
        and the update to `totals`, by which all processes learn of a stop.
    """
    set_lr(state.optimizer, lr)
    torch.manual_seed(update_seed(state.seed, step, state.dist.rank, 1))  # dropout
    seed, num_known = update_seed(state.seed, step, 0), len(failures)
    mixing_seed, loss_sum = update_seed(seed, 0), torch.zeros((), device=state.dist.device)
    for batch, drop_paths in _micro_batches(state, batches, seed):
        failures += batch.failures
        images, targets = state.prepare(batch, state.dist.device, mixing_seed)
        with _local_gradients(state.network, batch):
            with state.precision.autocast():
                losses = state.objective(state.network, images, targets, drop_paths)  # (b,)
            batch_loss = losses.sum() * float(batch.num_valid > 0)
            # DDP averages over processes, hence the factor world_size.
            scaled = state.scaler.scale(batch_loss * (state.dist.world_size / batch.update_size))
            torch.autograd.backward(scaled)
        loss_sum += batch_loss.detach()

    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), state.clip_grad or torch.inf)
    bad = ~(torch.isfinite(loss_sum) & torch.isfinite(norm))
    counts = (float(stop_requested), float(len(failures) - num_known))
    summed = torch.stack([loss_sum, bad.float(), *(torch.full_like(loss_sum, count) for count in counts)])
    all_reduce_sum(summed)
    ok = summed[1] == 0
    step_if(state.optimizer, ok)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.update()
    if state.ema:
        state.ema.update(state.model, ok)
    totals.add(summed[0], batch.update_size, norm, ok, summed[2:])
    return batch.position


def update_seed(*key: int) -> int:
    """Make an independent 63-bit seed for each key; another function would change the curves of all runs."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _micro_batches(state: TrainState, batches: Iterator[Batch], seed: int) -> Iterator[tuple[Batch, Tensor | None]]:
    """Take the batches of one update, each with its part of the stochastic depth that is drawn for all of them."""
    is_drawn, drawn = False, None
    for batch in batches:
        if not is_drawn:
            drawn = state.model.draw_drop_paths(batch.update_size, torch.Generator().manual_seed(seed))
            is_drawn = True
        # Of ordinary memory CUDA documents up to 64 KB, 682 images of 12 blocks, as copied without the host's waiting.
        yield batch, None if drawn is None else drawn[..., batch.rows or [0]].to(state.dist.device, non_blocking=True)
        if batch.last_of_update:
            return


def _local_gradients(network: nn.Module, batch: Batch) -> AbstractContextManager[None]:
    """Context in which gradients stay on each process; only an update's last backward pass communicates."""
    if isinstance(network, DistributedDataParallel) and not batch.last_of_update:
        return network.no_sync()
    return nullcontext()
