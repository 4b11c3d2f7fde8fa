"""Draw the learning rate of every update of recipes, before anything is trained.

python -m tools.plot_schedule --cfg swin_tiny --processes 8 --output schedule.png
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.build import open_sets
from swin.config import Config, load_config
from swin.create import build_model
from swin.engine.progress import Progress, lay_out
from swin.optim import parameter_groups
from swin.schedule import count_warmup_steps
from tools.arguments import command, positive
from tools.pictures import plain, require, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType

_IMAGENET_IMAGES = 1_281_167


@dataclass(frozen=True)
class Plan:
    """The learning rates of a recipe.

    Attributes:
        name: what the legend calls it.
        cfg: the recipe.
        progress: at its beginning, which knows the updates of an epoch.
        rates: of each update, before the factors of layer decay; where updates grow, of as many as if they did not.
        scales: lowest and highest factor of a parameter's layer; (1, 1) without layer decay.
        updates: how many there are, fewer than `rates` where they grow.
    """

    name: str
    cfg: Config
    progress: Progress
    rates: np.ndarray
    scales: tuple[float, float]
    updates: int

    @property
    def warmup_steps(self) -> int:
        """Updates of the warm-up."""
        return count_warmup_steps(self.cfg, self.progress.total_updates)

    def facts(self) -> dict[str, Any]:
        """Return what the picture shows in numbers; of the rates those at the beginning of each epoch and the last."""
        per_epoch, rates = self.progress.updates_per_epoch, self.rates
        return {
            "cfg": self.name,
            "images": self.progress.num_samples,
            "effective_batch": self.progress.total_batch,
            "updates_per_epoch": per_epoch,
            "updates": self.updates,
            "warmup_updates": self.warmup_steps,
            "first_lr": rates[0],
            "peak_lr": rates.max(),
            "peak_update": int(rates.argmax()),
            "last_lr": rates[-1],
            "weight_decay": float(self.cfg.TRAIN.WEIGHT_DECAY),
            "layer_scales": self.scales,
            "lr_by_epoch": [*rates[::per_epoch].tolist(), rates[-1]],
        }


def make_plan(name: str, cfg: Config, *, num_images: int, processes: int) -> Plan:
    """Work out every learning rate of a recipe on so many images and processes, as a run that begins at epoch 0."""
    total_batch = cfg.DATA.BATCH_SIZE * processes * cfg.TRAIN.ACCUMULATION_STEPS
    progress = Progress(num_images, total_batch, cfg.TRAIN.EPOCHS * num_images)
    phases, schedule = lay_out(cfg, progress)
    rates = np.array([schedule(step) for step in range(progress.total_updates)])
    return Plan(name, cfg, progress, rates, _layer_scales(cfg), phases.count_updates(total_batch))


def _layer_scales(cfg: Config) -> tuple[float, float]:
    if cfg.TRAIN.LAYER_DECAY == 1:
        return 1.0, 1.0
    with torch.device("meta"):  # the names of the parameters are enough
        model = build_model(cfg, max(1, cfg.MODEL.NUM_CLASSES))
    scales = [group["lr_scale"] for group in parameter_groups(model, cfg.TRAIN.WEIGHT_DECAY, cfg.TRAIN.LAYER_DECAY)]
    return min(scales), max(scales)


def count_images(cfg: Config, images: int | None) -> int:
    """Return the number of training images: as given, or of the config's data; ImageNet-1K's where it has no folder."""
    if images is not None:
        return images
    if cfg.DATA.DATASET != "digits" and not cfg.DATA.DATA_PATH:
        return _IMAGENET_IMAGES
    train = open_sets(cfg).train
    assert train is not None
    return len(train.labels)


def draw_plan(axes: "Axes", plan: Plan, colour: "ColorType") -> None:
    """Draw a recipe's learning rates over its epochs; a band down to those of the lowest layer, where they decay."""
    per_epoch, rates = plan.progress.updates_per_epoch, plan.rates
    epochs = np.arange(len(rates)) / per_epoch
    label = f"{plan.name}: batch {plan.progress.total_batch}, weight decay {plan.cfg.TRAIN.WEIGHT_DECAY:g}"
    if plan.scales[0] < 1:
        label += f", layers from x{plan.scales[0]:.3g}"
        axes.fill_between(epochs, rates * plan.scales[0], rates, color=colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, rates, color=colour, label=plain(label, 100))
    if 0 < plan.warmup_steps < len(rates):
        axes.axvline(plan.warmup_steps / per_epoch, color=colour, linestyle=":", linewidth=1)
        axes.plot(plan.warmup_steps / per_epoch, rates[plan.warmup_steps], "o", color=colour)
    axes.plot(epochs[-1], rates[-1], "s", color=colour)


def _x_label(plans: Sequence[Plan]) -> str:
    per_epoch = sorted({plan.progress.updates_per_epoch for plan in plans})
    return f"epoch of {' or '.join(f'{updates:,}' for updates in per_epoch)} updates"


def draw(plans: Sequence[Plan], output: Path) -> None:
    """Write the picture of all recipes, and its JSON."""
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    colours = color_sequences["petroff10"]
    for index, plan in enumerate(plans):
        draw_plan(axes, plan, colours[index % len(colours)])
    axes.plot([], [], "ko:", label="end of the warm-up")
    axes.plot([], [], "ks", linestyle="none", label="last update")
    axes.set(xlabel=_x_label(plans), ylabel="learning rate", ylim=(0, None))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    save_picture(figure, output, {"schedules": [plan.facts() for plan in plans]})


def _parser() -> argparse.ArgumentParser:
    prog = "python -m tools.plot_schedule"
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Draw the learning rate of every update of recipes.",
        epilog=f"example: {prog} --cfg swin_tiny --processes 8 --output schedule.png",
    )
    parser.add_argument("--cfg", required=True, action="append", metavar="FILE", help="recipe; several for one picture")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys, for all the recipes")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--images", type=positive, help="training images (default: 1,281,167 of ImageNet-1K, or the digits')"
    )
    size.add_argument("--data-path", metavar="DIR", help="the data set, to count its training images")
    parser.add_argument("--processes", type=positive, default=1, help="devices of the run (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("schedule.png"), help="PNG (default: schedule.png)")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(argv)
    plans = []
    require("matplotlib")
    for name in options.cfg:
        cfg = load_config(name, options.opts, {"DATA.DATA_PATH": options.data_path})
        if cfg.TRAIN.MINUTES:
            print(
                f"warning: {name}: with TRAIN.MINUTES {cfg.TRAIN.MINUTES:g} each machine finds its own length; drawn "
                f"over the {cfg.TRAIN.EPOCHS} of TRAIN.EPOCHS instead. python -m tools.estimate finds it.",
                file=sys.stderr,
            )
        num_images = count_images(cfg, options.images)
        plans.append(make_plan(Path(name).stem, cfg, num_images=num_images, processes=options.processes))
    draw(plans, options.output)
    for plan in plans:
        facts = plan.facts()
        print(
            f"{facts['cfg']}: {facts['images']:,} images, {facts['effective_batch']} an update, "
            f"{facts['updates_per_epoch']} updates an epoch, {facts['updates']} in all; learning rate first "
            f"{facts['first_lr']:.3g}, peak {facts['peak_lr']:.3g} at update {facts['peak_update']}, "
            f"last {facts['last_lr']:.3g}"
        )
    print(f"{options.output}, with its numbers in {options.output.with_suffix('.json')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
