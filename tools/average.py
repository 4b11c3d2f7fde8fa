"""Average the weights of checkpoints of one model into one: all of them, or those that make it better.

python -m tools.average --checkpoints output/swin_tiny/default --last 3 --output average.pth

With --greedy the checkpoints are taken from the best to the worst, and each stays in the average only where the
validation images say that it is no worse for it (a greedy soup, arXiv 2203.05482). Exit status: 0; 2 for an error; 3
when stopped by a signal.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import build_data
from swin.config import config_from_dict, config_to_dict
from swin.config.messages import program_name
from swin.create import build_model, config_tree
from swin.distributed import from_main, setup_distributed
from swin.engine.best import FIGURES, choose_figure
from swin.engine.build import Job, build_precision
from swin.engine.checkpoint import epoch_checkpoints, write_checkpoint
from swin.engine.command import run_command
from swin.engine.evaluate import evaluate
from swin.engine.signals import StopRequest
from swin.errors import CheckpointError, ConfigError
from swin.logger import Logger
from swin.run_folder import RunFolder
from swin.weights import Weights, load_weights, read_weights
from swin.weights.labels import imagenet_classes
from tools.arguments import positive
from tools.evaluate import add_running_options, build_config

Tensors = Mapping[str, Tensor]


class Mean:
    """The mean of weights, summed in float64 so that their order does not show."""

    def __init__(self, tensors: Tensors) -> None:
        self.sums = {name: value.double() for name, value in tensors.items()}
        self.dtypes = {name: value.dtype for name, value in tensors.items()}
        self.count = 1

    def add(self, tensors: Tensors, sign: int = 1) -> None:
        """Take in further weights, or take them out again by a `sign` of -1."""
        for name, value in tensors.items():
            self.sums[name] += sign * value.double()
        self.count += sign

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean in the types of the first weights."""
        return {name: (value / self.count).to(self.dtypes[name]) for name, value in self.sums.items()}


def read_all(sources: Sequence[str], last: int | None = None) -> list[Weights]:
    """Read the weights of one model, as they stand in several checkpoints.

    Args:
        sources: what `read_weights` takes.
        last: take of a single run's folder so many of its newest epochs instead.

    Raises:
        CheckpointError: one cannot be read, there are fewer than two, or they are not of one model and its classes.
    """
    files: Sequence[str | Path] = sources
    if last is not None:
        if len(sources) != 1:
            raise ConfigError("--last takes the newest epochs of one run: give its folder alone as --checkpoints.")
        files = epoch_checkpoints(Path(sources[0]) / "checkpoints")[:last]
    if len(files) < 2:
        where = f" in {sources[0]}/checkpoints, see SAVE_KEEP" if last is not None else ""
        raise CheckpointError(f"an average wants at least two checkpoints, and there are {len(files)}{where}.")
    read = [read_weights(file) for file in files]
    for weights in read[1:]:
        for what, of in (("tensors", _shapes), ("classes", _classes), ("labels an image", _is_several)):
            if of(weights) != of(read[0]):
                raise CheckpointError(
                    f"{weights.name} has other {what} than {read[0].name}: only weights of one model can be averaged."
                )
    return read


def _shapes(weights: Weights) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.tensors.items()}


def _classes(weights: Weights) -> list[str] | None:
    return weights.classes


def _is_several(weights: Weights) -> bool:
    return weights.threshold is not None


def choose(weights: Sequence[Weights], measure: Callable[[Tensors], float], say: Callable[[str], None]) -> Mean:
    """Choose the ingredients of a greedy soup.

    Args:
        measure: gives the figure of weights, the higher the better.
        say: is told of each step.

    Source: arXiv 2203.05482, recipe 1.
    """
    figures = [measure(each.tensors) for each in weights]
    for each, figure in zip(weights, figures, strict=True):
        say(f"{each.name}: {figure:.4f}")
    order = sorted(range(len(weights)), key=lambda index: -figures[index])  # of equal ones the first given first
    mean, best = Mean(weights[order[0]].tensors), figures[order[0]]
    for index in order[1:]:
        mean.add(weights[index].tensors)
        figure = measure(mean.tensors())
        say(f"with {weights[index].name}: {figure:.4f}, {'kept' if figure >= best else 'left out'}")
        if figure >= best:
            best = figure
        else:
            mean.add(weights[index].tensors, -1)
    return mean


def make_measure(
    weights: Weights, options: argparse.Namespace, logger: Logger, stop: StopRequest
) -> tuple[Callable[[Tensors], float], str]:
    """Make what evaluates weights on the validation images by its table of predictions, and say which figure it is."""
    cfg, num_classes = build_config(weights, options), weights.count_classes()
    dist = setup_distributed(cfg.DEVICE, cfg.DIST_TIMEOUT)
    job = Job(cfg, dist, build_precision(cfg, dist), logger, stop, RunFolder(options.output.parent), build_data, False)
    classes, origin = weights.classes or imagenet_classes(num_classes), f"the classes of {weights.name}"
    data = job.make_data(need_train=False, classes=classes, origin=origin, split=options.split)
    model = build_model(cfg, num_classes)
    model.classes = data.classes
    figure = FIGURES[choose_figure("acc1", multi_label=data.multi_label)]

    def measure(tensors: Tensors) -> float:
        load_weights(model, replace(weights, tensors=dict(tensors)), strict=True)
        result, _ = evaluate(model.to(dist.device), data, job.precision, dist, stop=stop, show=logger.progress)
        return float(getattr(result, figure.field))

    return measure, f"{figure.title} of {data.val.num_samples if data.val else 0} images ({data.part})"


def run(options: argparse.Namespace, logger: Logger, stop: StopRequest) -> None:
    """Average, and write the checkpoint."""
    if options.output.suffix != ".pth":
        raise ConfigError(f"--output {options.output} does not end in .pth, as a checkpoint's name has to.")
    read = read_all(options.checkpoints, options.last)
    first = read[0]
    if options.greedy:
        measure, words = make_measure(first, options, logger, stop)
        logger.info(f"choosing by {words}, so that this figure of the average is a little too good")
        mean = choose(read, measure, logger.info)
    else:
        mean = Mean(first.tensors)
        for weights in read[1:]:
            mean.add(weights.tensors)
    content: dict[str, Any] = {"model": mean.tensors(), "config": config_to_dict(config_from_dict(config_tree(first)))}
    content |= {"classes": first.classes} if first.classes else {}
    thresholds = [weights.threshold for weights in read if weights.threshold is not None]
    content |= {"multi_label": True, "threshold": sum(thresholds) / len(read)} if thresholds else {}
    from_main(lambda: write_checkpoint(options.output, content))
    logger.info(f"the average of {mean.count} of {len(read)} checkpoints is in {options.output}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary, example = (__doc__ or "").split("\n\n")[:2]
    parser = argparse.ArgumentParser(
        prog=program_name("swin-average", "python -m tools.average"), description=summary, epilog=f"example: {example}"
    )
    add = parser.add_argument
    add("--checkpoints", required=True, nargs="+", metavar="F", help="checkpoints or weight files of one model")
    add("--last", type=positive, metavar="K", help="the K newest epochs of the run whose folder is given")
    add("--output", required=True, type=Path, metavar="F.pth", help="the checkpoint to write")
    add("--greedy", action="store_true", help="keep only those that make the average no worse on validation images")
    add("--data-path", metavar="D", help="the images for --greedy; default: those that the run was validated on")
    add("--split", help="their part, as for tools.evaluate; default: val, else test, else all")
    add_running_options(parser)
    parser.set_defaults(no_report=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    options = parse(argv)
    return run_command(lambda logger, stop: run(options, logger, stop))


if __name__ == "__main__":
    sys.exit(main())
