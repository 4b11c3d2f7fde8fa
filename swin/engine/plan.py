"""A run in words: before it begins, and at its end."""

from collections.abc import Sequence

from swin.engine.trainer import Trainer
from swin.phases import grow_batch
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
    return (
        f"{_describe_data(trainer)}\n"
        f"batch: {cfg.DATA.BATCH_SIZE} per process x {dist.world_size} processes x "
        f"{cfg.TRAIN.ACCUMULATION_STEPS} accumulation = {trainer.total_batch} per update\n"
        f"{describe_steps(trainer)}\n"
        f"learning rate ({cfg.TRAIN.LR_SCHEDULER.NAME}, {scaled}): first {rates[0]:.3e} peak {max(rates):.3e} "
        f"last {rates[-1]:.3e}\n"
        f"precision {trainer.state.precision.name} on {dist.device}, world size {dist.world_size}"
    )


def _describe_data(trainer: Trainer) -> str:
    cfg, data, num_train = trainer.cfg, trainer.data, trainer.progress.num_samples
    if not data.classes:
        cell, (height, width) = cfg.DATA.MASK_PATCH_SIZE, trainer.state.model.img_size
        return (
            f"data {cfg.DATA.DATASET}: {num_train} images without labels, of which {cfg.DATA.MASK_RATIO:.0%} of the "
            f"{height // cell} x {width // cell} cells of {cell} px are masked"
        )
    num_val = data.val.num_samples if data.val else 0
    test = f", {data.test.num_samples} for a test at the end" if data.test else ""
    return (
        f"data {cfg.DATA.DATASET}: {num_train} training and {num_val} validation images{test}, "
        f"{len(data.classes)} classes\n{describe_classes(data.classes, data.class_counts, data.val_counts)}"
    )


def describe_done(trainer: Trainer) -> str:
    """Say what the evaluations of a run came to, or that there were none."""
    return str(trainer.best) if trainer.data.val else "pre-trained without labels, fine-tune with --pretrained"


def describe_steps(trainer: Trainer) -> str:
    """Count the updates; with several sizes of images, say each one's epochs and samples of an update."""
    progress, phases = trainer.progress, trainer.phases
    warmup, epochs = count_warmup_steps(trainer.cfg, progress.total_updates), f"{count_epochs(trainer)} epochs"
    if len(phases.phases) == 1 and phases.phases[0].growth == 1:
        counts = f"{progress.updates_per_epoch} updates = {progress.total_updates}"
        return f"steps: {epochs} x {counts}, the first {warmup} of them warm-up{describe_time(trainer)}"
    sizes = [
        f"{'epoch' if len(span) == 1 else 'epochs'} {'-'.join(str(epoch) for epoch in sorted({span[0], span[-1]}))} at "
        f"{phase.img_size[0]} x {phase.img_size[1]} with {grow_batch(trainer.total_batch, phase.growth)} per update"
        for span, phase in phases.spans()
    ]
    updates, share = phases.count_updates(trainer.total_batch), warmup / progress.updates_per_epoch
    steps = f"{epochs} = {updates} updates, the first {share:.3g} epochs warm-up{describe_time(trainer)}"
    return f"sizes: {', '.join(sizes)}\nsteps: {steps}"


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
    unused = [phase for phase in trainer.phases.phases if phase not in {used for _, used in trainer.phases.spans()}]
    if unused:
        sizes = ", ".join(f"{height} x {width}" for _, (height, width), _ in unused)
        found.append(
            f"no epoch begins in the part of the run that DATA.IMG_SIZE_SCHEDULE gives to images of {sizes}, so that "
            "none has that size; make its share larger, or train for more epochs."
        )
    return found


def count_epochs(trainer: Trainer) -> str:
    """Show the epochs of a whole run: a whole number, or with one place."""
    epochs = trainer.progress.total_epochs
    return f"{epochs:.0f}" if epochs.is_integer() else f"{epochs:.1f}"


def describe_time(trainer: Trainer) -> str:
    """Say how much of the time of a run is used; nothing of one without TRAIN.MINUTES."""
    minutes = trainer.cfg.TRAIN.MINUTES
    return f"; trained for {trainer.clock.seconds:.1f} s of TRAIN.MINUTES {minutes:g}" if minutes else ""


def describe_end(trainer: Trainer) -> str:
    """Say that a run was at its end before it was started, and how to go on."""
    key = "TRAIN.MINUTES" if trainer.cfg.TRAIN.MINUTES else "TRAIN.EPOCHS"
    if trainer.progress.is_over:
        done = f"all {count_epochs(trainer)} epochs are done{describe_time(trainer)}"
        return f"{done}; {trainer.best}. Raise {key} to go on."
    return f"the run is done, {describe_early(trainer)}; {trainer.best}. Raise TRAIN.PATIENCE to go on, or set it to 0."


def describe_early(trainer: Trainer) -> str:
    """Say why a run ended before its last epoch."""
    at, waited = trainer.progress.epoch, trainer.best.waited
    such = "1 evaluation was" if waited == 1 else f"{waited} evaluations in a row were"
    return f"after {at} of {count_epochs(trainer)} epochs, since {such} not better (TRAIN.PATIENCE)"
