"""A run in words, before it begins."""

from collections.abc import Sequence

from swin.engine.trainer import Trainer
from swin.schedule import count_warmup_steps


def describe_plan(trainer: Trainer) -> str:
    """Describe data, batch, steps and learning rates of a run, a line each."""
    cfg, progress, dist = trainer.cfg, trainer.progress, trainer.dist
    steps = progress.total_updates
    rates = [trainer.schedule(step) for step in range(0, steps, max(1, steps // 2000))] + [trainer.schedule(steps - 1)]
    scaled = f"base {cfg.TRAIN.BASE_LR:g}"
    if cfg.TRAIN.LR_REFERENCE_BATCH:
        ratio = f"{progress.total_batch}/{cfg.TRAIN.LR_REFERENCE_BATCH}"
        scaled += f" x sqrt({ratio})" if cfg.TRAIN.LR_SCALING == "sqrt" else f" x {ratio}"
    if cfg.TRAIN.LAYER_DECAY != 1:
        scaled += f", x {cfg.TRAIN.LAYER_DECAY:g} for each block below the head"
    if trainer.rollbacks:
        scaled += f", now x {trainer.lr_factor:g} after {trainer.rollbacks} returns (TRAIN.ROLLBACK)"
    num_val = trainer.data.val.num_samples if trainer.data.val else 0
    test = f", {trainer.data.test.num_samples} for a test at the end" if trainer.data.test else ""
    return (
        f"data {cfg.DATA.DATASET}: {progress.num_samples} training and {num_val} validation images{test}, "
        f"{len(trainer.data.classes)} classes\n"
        f"{describe_classes(trainer.data.classes, trainer.data.class_counts, trainer.data.val_counts)}\n"
        f"batch: {cfg.DATA.BATCH_SIZE} per process x {dist.world_size} processes x "
        f"{cfg.TRAIN.ACCUMULATION_STEPS} accumulation = {trainer.total_batch} per update\n"
        f"steps: {progress.total_epochs:g} epochs x {progress.updates_per_epoch} updates = {steps}, "
        f"the first {count_warmup_steps(cfg, steps)} of them warm-up\n"
        f"learning rate ({cfg.TRAIN.LR_SCHEDULER.NAME}, {scaled}): first {rates[0]:.3e} peak {max(rates):.3e} "
        f"last {rates[-1]:.3e}\n"
        f"precision {trainer.state.precision.name} on {dist.device}, world size {dist.world_size}"
    )


def describe_classes(classes: Sequence[str], train_counts: Sequence[int], val_counts: Sequence[int]) -> str:
    """Name classes with their images, so that a wrong folder is seen: all, or of many the largest and the smallest."""
    shown = [
        f"{name} ({counts[0]} + {counts[1]})" for name, *counts in zip(classes, train_counts, val_counts, strict=True)
    ]
    title, chosen = "classes with their training + validation images", select_extremes(train_counts, 12, 3)
    if len(chosen) == len(classes):
        return f"{title}: {', '.join(shown)}"
    largest, smallest = (", ".join(shown[label] for label in part) for part in (chosen[:3], chosen[3:]))
    return f"{title}: the largest {largest}; the smallest {smallest}"


def select_extremes(counts: Sequence[int], limit: int, each: int) -> list[int]:
    """Return all labels in order if there are no more than `limit`, else those of the largest and smallest classes."""
    if len(counts) <= limit:
        return list(range(len(counts)))
    by_count = sorted(range(len(counts)), key=lambda label: -counts[label])
    return by_count[:each] + by_count[-each:]


def find_doubts(trainer: Trainer) -> list[str]:
    """List what a user should be warned of in a plan."""
    found, train = [], trainer.cfg.TRAIN
    planned, reference = trainer.progress.total_batch, train.LR_REFERENCE_BATCH
    if trainer.total_batch != planned:
        found.append(
            f"the run began with {planned} images an update and goes on with {trainer.total_batch}; its learning rates "
            f"stay those that were planned for {planned}, at the same images. For {planned} again, change --batch-size "
            "or --accumulation-steps; for other rates, start anew with --pretrained and another --tag."
        )
    # A sixteenth: the linear rule is then four times below the square root, the rule for AdamW.
    if train.LR_SCALING == "linear" and 16 * planned < reference:
        accumulation = -(-reference * train.ACCUMULATION_STEPS // planned)
        found.append(
            f"the peak learning rate {train.BASE_LR * planned / reference:.1e} is small, since {planned} images an "
            f"update are few beside TRAIN.LR_REFERENCE_BATCH {reference}: little will be learned. For the recipe's own "
            f"rates: --accumulation-steps {accumulation}. For this batch: --opts TRAIN.LR_SCALING sqrt, which peaks at "
            f"{train.BASE_LR * (planned / reference) ** 0.5:.1e}; or set TRAIN.LR_REFERENCE_BATCH 0 and your own rates."
        )
    return found
