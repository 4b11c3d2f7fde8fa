"""One update of the weights."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from swin.distributed import Distributed, all_reduce_sum
from swin.engine.precision import Precision
from swin.engine.state import TrainState
from swin.optim import set_lr, step_if


class MicroBatch(Protocol):
    """What this module reads of the batches that the training loader yields; `Prepare` knows what is in them."""

    num_valid: int  # this rank's real samples; 0 for a placeholder at the end of an epoch
    update_size: int  # samples of all ranks and micro-batches in the update
    last_of_update: bool
    position: int  # samples of all ranks done in the epoch after this micro-batch


Prepare = Callable[[Any, torch.device, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StepSetup:
    """What stays the same from update to update.

    Attributes:
        network: the model as it is called: itself, or DistributedDataParallel around it.
        loss: (logits, targets) to the loss of each sample (b,).
        prepare: (batch, device, seed) to images (b, C, H, W) and targets for the loss, both on the device.
        clip_grad: greatest norm of the gradient; 0 or less for no limit.
    """

    network: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    prepare: Prepare
    precision: Precision
    dist: Distributed
    clip_grad: float
    seed: int


@dataclass
class StepTotals:
    """Sums over the updates since the last log line, on the device; reading them is the one place that waits for it.

    `values` holds the sums of losses, samples, gradient norms and finite updates; `streak` the non-finite updates in a
    row up to now, and `stop` the number of processes that were asked to stop.
    """

    device: torch.device
    values: Tensor = field(init=False)
    streak: Tensor = field(init=False)
    stop: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.streak = torch.zeros((), device=self.device)
        self.reset()

    def reset(self) -> None:
        """Start the sums anew; the streak goes on."""
        self.values = torch.zeros(4, device=self.device)
        self.stop = torch.zeros((), device=self.device)

    def add(self, loss: Tensor, samples: int, norm: Tensor, ok: Tensor, stop: Tensor) -> None:
        """Count one update; all tensors are 0-d and on the device."""
        row = torch.stack([loss, torch.full_like(loss, samples), norm, torch.ones_like(loss)])
        self.values += torch.where(ok, row, torch.zeros_like(row))
        self.streak = torch.where(ok, torch.zeros_like(self.streak), self.streak + 1)
        self.stop = torch.maximum(self.stop, stop)


def update_seed(*key: int) -> int:
    """An independent 63-bit seed for each key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _no_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Context in which gradients stay on each process; nothing to do where there is only one."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def train_step(
    setup: StepSetup,
    state: TrainState,
    batches: Iterator[Any],
    lr: float,
    totals: StepTotals,
    stop_requested: bool = False,
) -> int:
    """Draw the micro-batches of one update and apply it; nothing here waits for the device.

    The gradient is that of the mean loss over all samples of the update, however they are split into micro-batches and
    processes. If the loss or the gradient of any process is not finite, the update changes nothing on all of them.

    Returns:
        Samples of the epoch, over all processes, which are done now.
    """
    device, world_size = setup.dist.device, setup.dist.world_size
    set_lr(state.optimizer, lr)
    seed = update_seed(setup.seed, state.step, setup.dist.rank)
    torch.manual_seed(seed)  # dropout and stochastic depth
    loss_sum = torch.zeros((), device=device)
    micro, last = 0, False
    while not last:
        batch: MicroBatch = next(batches)
        last = batch.last_of_update
        images, targets = setup.prepare(batch, device, update_seed(seed, micro))
        # DDP averages over processes, hence the factor world_size; only the last backward pass communicates.
        with _no_sync(setup.network) if not last else nullcontext():
            with setup.precision.autocast():
                losses = setup.loss(setup.network(images), targets)  # (b,)
            share = losses.sum() * float(batch.num_valid > 0)
            scaled = share * (world_size / batch.update_size)
            (state.scaler.scale(scaled) if state.scaler else scaled).backward()
        loss_sum += share.detach()
        micro += 1

    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    max_norm = setup.clip_grad if setup.clip_grad > 0 else torch.inf
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), max_norm)
    bad = ~(torch.isfinite(loss_sum) & torch.isfinite(norm))
    shared = torch.stack([loss_sum, bad.float(), torch.full_like(loss_sum, float(stop_requested))])
    all_reduce_sum(shared)
    ok = shared[1] == 0
    step_if(state.optimizer, ok)
    state.optimizer.zero_grad(set_to_none=True)
    if state.scaler:
        state.scaler.update()
    if state.ema:
        state.ema.update(state.model, ok)
    totals.add(shared[0], batch.update_size, norm, ok, shared[2])
    state.step += 1
    return batch.position
