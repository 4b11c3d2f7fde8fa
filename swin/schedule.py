"""Learning-rate schedules as pure functions of how far a run is, in updates.

The first `warmup_steps` updates rise linearly from `warmup_lr` towards `peak_lr`. Then:

- `cosine`: half a cosine that reaches `min_lr` at `total_steps` and stays there. With `warmup_prefix` it starts at
  `peak_lr` after the warm-up; without, it starts at update 0 and the warm-up only replaces its first values.
- `linear`: a straight line from `peak_lr` after the warm-up to `min_lr` at `total_steps`.
- `constant`: `peak_lr` throughout.
- `wsd` (warm-up, stable, decay): `peak_lr`, and over the last `decay_share` of `total_steps`, or what the warm-up
  leaves of it, 1 minus the square root of its part that is over, from there to `min_lr`. Source: Haegele et al.
  2024, arXiv 2405.18392, section 3.
- `step`: `peak_lr` times `decay_rate` for every whole `decay_steps` since update 0.
- `multistep`: `peak_lr` times `gamma` for every one of the increasing `milestones` that is reached.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from swin.config import Config
from swin.errors import ConfigError
from swin.phases import Phases, grow_batch

Schedule = Callable[[float], float]


def make_schedule(
    *,
    name: str,
    peak_lr: float,
    warmup_lr: float,
    min_lr: float,
    total_steps: int,
    warmup_steps: int,
    warmup_prefix: bool = True,
    decay_steps: int = 0,
    decay_rate: float = 0.1,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    decay_share: float = 0.2,
) -> Schedule:
    """Make the function from the number of an update, from 0 and perhaps broken, to its learning rate (see the module).

    Raises:
        ConfigError: The name is unknown, or `step` has no `decay_steps`.
    """

    def progress(step: float, start: float = warmup_steps) -> float:
        return min(1.0, (step - start) / max(1, total_steps - start))

    start = warmup_steps if warmup_prefix else 0
    decay_start = max(warmup_steps, total_steps * (1 - decay_share))
    decays: dict[str, Schedule] = {
        "cosine": lambda step: min_lr + 0.5 * (peak_lr - min_lr) * (1 + math.cos(math.pi * progress(step, start))),
        "linear": lambda step: peak_lr - (peak_lr - min_lr) * progress(step),
        "constant": lambda step: peak_lr,
        "wsd": lambda step: peak_lr - (peak_lr - min_lr) * math.sqrt(max(0.0, progress(step, decay_start))),
        "step": lambda step: peak_lr * decay_rate ** (step // decay_steps),
        "multistep": lambda step: peak_lr * gamma ** bisect_right(milestones, step),
    }
    if name not in decays:
        raise ConfigError(f"TRAIN.LR_SCHEDULER.NAME is {name!r}; use one of {', '.join(decays)}.")
    if name == "step" and decay_steps < 1:
        raise ConfigError(f"The step schedule needs at least 1 update between decays, found {decay_steps}.")

    def schedule(step: float) -> float:
        is_warmup = step < warmup_steps
        return warmup_lr + (peak_lr - warmup_lr) * step / warmup_steps if is_warmup else decays[name](step)

    return schedule


def build_schedule(cfg: Config, *, effective_batch: int, total_updates: int, phases: Phases | None = None) -> Schedule:
    """Make the schedule of a configured run.

    The base, warm-up and minimum learning rates are multiplied by `find_lr_factor`. The official code ends its linear
    schedule at 1% of the peak whatever TRAIN.MIN_LR says; here MIN_LR counts, which is the same for every recipe whose
    MIN_LR is 1% of its BASE_LR.

    Args:
        effective_batch: Samples of an update, over all processes and micro-batches, when the run began.
        total_updates: Of the whole run. What the config gives in epochs has the share of it that they have of
            TRAIN.EPOCHS, also where that is not the length of the run.
        phases: Where updates are larger in some of them, the rates are multiplied as for such a batch, at the same
            samples; None to leave them.
    """
    train, scheduler = cfg.TRAIN, cfg.TRAIN.LR_SCHEDULER
    scale = find_lr_factor(cfg, effective_batch)
    updates_per_epoch = total_updates / train.EPOCHS
    schedule = make_schedule(
        name=scheduler.NAME,
        peak_lr=train.BASE_LR * scale,
        warmup_lr=train.WARMUP_LR * scale,
        min_lr=train.MIN_LR * scale,
        total_steps=total_updates,
        warmup_steps=count_warmup_steps(cfg, total_updates),
        warmup_prefix=scheduler.WARMUP_PREFIX,
        decay_steps=max(1, round(scheduler.DECAY_EPOCHS * updates_per_epoch)),
        decay_rate=scheduler.DECAY_RATE,
        milestones=[round(epoch * updates_per_epoch) for epoch in scheduler.MULTISTEPS],
        gamma=scheduler.GAMMA,
        decay_share=scheduler.DECAY_SHARE,
    )
    if phases is None:
        return schedule

    def scaled(step: float) -> float:
        grown = grow_batch(effective_batch, phases.of_update(step).growth)
        return schedule(step) * (find_lr_factor(cfg, grown) / scale)

    return scaled


def find_lr_factor(cfg: Config, effective_batch: int) -> float:
    """Return by how much the config's three rates are multiplied for a batch; 1 where LR_REFERENCE_BATCH is 0.

    Source: linear, arXiv 1706.02677, section 2.1, for SGD; sqrt, arXiv 2205.10287, for Adam.
    """
    reference = cfg.TRAIN.LR_REFERENCE_BATCH
    ratio = effective_batch / reference if reference else 1.0
    return math.sqrt(ratio) if cfg.TRAIN.LR_SCALING == "sqrt" else ratio


def count_warmup_steps(cfg: Config, total_updates: int) -> int:
    """Return the updates of the warm-up: whole epochs, or the nearest number to a share of the run."""
    warmup = cfg.TRAIN.WARMUP_EPOCHS
    epochs = warmup * cfg.TRAIN.EPOCHS if isinstance(warmup, float) else warmup
    return round(epochs * (total_updates / cfg.TRAIN.EPOCHS))
