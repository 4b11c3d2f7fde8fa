"""Find a learning rate: train for some updates at a rate that rises from tiny to too high.

python -m tools.find_lr --cfg swin_digits [flags and --opts of main.py] [--updates 200] [--picture find_lr.png]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from swin.config import Config
from swin.distributed import shutdown
from swin.engine.step import train_step
from swin.engine.trainer import Trainer
from swin.errors import ConfigError, printable
from swin.schedule import find_lr_factor
from tools.arguments import command, number_type, positive
from tools.pictures import plain, require, save_picture
from tools.trial import WITHOUT_BUDGET, begin_trial, endless, make_trial, parse_trial, show_warnings, trial_parser

_DIVERGED = 2.0  # times the lowest loss: what is a rise without return, and not noise
_SMOOTHED_DECADES = 0.2  # standard deviation of the window that losses are averaged over, in decades of the rate
_LEAST_FALL = 4.0  # in its own standard errors: noise alone has a lowest place, too


@dataclass(frozen=True)
class Curve:
    """What a test has seen, one entry an update: all (n,).

    Attributes:
        rates: learning rates, rising.
        losses: sums of the loss over the samples of an update.
        samples: how many these were.
        is_diverged: whether the test ended since the loss rose without return, or was not finite.
    """

    rates: np.ndarray
    losses: np.ndarray
    samples: np.ndarray
    is_diverged: bool

    @property
    def means(self) -> np.ndarray:
        """Mean loss of each update."""
        return self.losses / self.samples

    @property
    def window(self) -> float:
        """Standard deviation of the window that losses are averaged over, in updates."""
        return _SMOOTHED_DECADES / float(np.log10(self.rates[1] / self.rates[0]))

    def smoothed(self) -> np.ndarray:
        """Return the mean loss of the samples around each update, near ones weighing more, on both sides alike.

        What is far above the usual counts as twice the usual, since updates that diverge would outweigh all around.
        """
        losses = self.samples * self.means.clip(max=_DIVERGED * np.median(self.means))
        sums, counts = (gaussian_filter1d(each, self.window, mode="reflect") for each in (losses, self.samples))
        return sums / counts


@dataclass(frozen=True)
class Suggestion:
    """A learning rate, and what it follows from.

    Attributes:
        rate: the peak of a schedule that warms up and decays: the geometric mean of the two below.
        steepest: rate at which the loss falls most, within a decade below the lowest.
        lowest: rate at which the loss is lowest.
        loss: which it is there, smoothed.
        fall: by how much that is below the loss before.
        error: standard error of the fall.
    """

    rate: float
    steepest: float
    lowest: float
    loss: float
    fall: float
    error: float

    @property
    def is_sound(self) -> bool:
        """Whether the loss fell by more than chance would have it."""
        return self.fall > _LEAST_FALL * self.error


def sweep(trainer: Trainer, updates: int, lowest: float, highest: float) -> Curve:
    """Train at a rate that rises by the same factor from update to update, until the loss diverges.

    Source: arXiv 1506.01186, section 3.3, with an exponential rise.

    Raises:
        ConfigError: It diverged before there was anything to see.
    """
    rows: list[tuple[float, float, float]] = []
    batches, totals, best = endless(trainer), trainer.totals, np.inf
    recent = max(3, updates // 20)
    # A loss scaler finds its scale by overflows.
    limit = trainer.cfg.TRAIN.MAX_NONFINITE if trainer.state.scaler.is_enabled() else 1
    is_diverged = False
    trainer.state.network.train()
    for step, rate in enumerate(np.geomspace(lowest, highest, updates).tolist()):
        train_step(trainer.state, step, batches, rate, totals, trainer.watch.failures)
        loss, samples, _, finite = totals.values.tolist()
        totals.reset()
        if finite:
            rows.append((rate, loss, samples))
        if len(rows) >= recent:
            _, loss, samples = np.sum(rows[-recent:], axis=0)
            best = min(best, loss / samples)
            is_diverged = bool(loss / samples > _DIVERGED * best)
        if is_diverged := is_diverged or totals.streak.item() >= limit:
            break
    if len(rows) < 2 * recent:
        raise ConfigError(
            f"the loss diverged within {len(rows) + 1} updates, from a rate of {lowest:g} on: give a lower --lowest, "
            "or rule out the number format with --disable-amp."
        )
    rates, losses, counts = np.array(rows).T
    return Curve(rates, losses, counts, is_diverged)


def suggest(curve: Curve) -> Suggestion:
    """Suggest the peak of a schedule from where the loss fell fastest, and where it was lowest."""
    smoothed, decades = curve.smoothed(), np.log10(curve.rates)
    bottom = int(smoothed.argmin())
    near = int(np.searchsorted(decades, decades[bottom] - 1))  # further down a slope is noise
    steepest = near + int(np.gradient(smoothed, decades)[near : bottom + 1].argmin())
    before = max(1, bottom // 2)
    fall = curve.losses[:before].sum() / curve.samples[:before].sum() - smoothed[bottom]
    noise = np.std((curve.means - smoothed)[: max(bottom + 1, len(smoothed) // 2)])
    # A mean with the weights of a Gaussian window is worth 2 sqrt(pi) of its standard deviations.
    error = noise * np.sqrt(1 / (2 * np.sqrt(np.pi) * curve.window) + 1 / before)
    rates = curve.rates[[steepest, bottom]]
    return Suggestion(*map(float, (np.sqrt(rates.prod()), *rates, smoothed[bottom], fall, error)))


def draw(curve: Curve, found: Suggestion, cfg: Config, peak: float, picture: Path, facts: dict[str, Any]) -> None:
    """Write the picture of a test, and its JSON; `peak` is the config's own rate."""
    from matplotlib.figure import Figure

    smoothed = curve.smoothed()
    figure = Figure(figsize=(9, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.plot(curve.rates, curve.means, ".", color="0.7", label="loss of an update")
    axes.plot(curve.rates, smoothed, color="tab:blue", label=f"smoothed over {_SMOOTHED_DECADES:g} decades")
    for rate, label, mark in ((found.steepest, "falls fastest", "v"), (found.lowest, "lowest", "o")):
        loss = np.interp(np.log(rate), np.log(curve.rates), smoothed)
        axes.plot(rate, loss, mark, color="tab:blue", label=f"{label}: {rate:.1e}")
    if found.is_sound:
        axes.axvline(found.rate, color="tab:orange", label=f"suggested: {found.rate:.1e}")
    axes.axvline(peak, color="0.3", linestyle=":", label=f"the config's peak: {peak:.1e}")
    start = smoothed[0]
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.set_ylim(min(curve.means.min(), found.loss) - 0.02 * start, start + max(0.3 * start, start - found.loss))
    axes.set_title(plain(f"{cfg.MODEL.NAME}: {cfg.TRAIN.OPTIMIZER.NAME}, {facts['batch']} images an update", 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    save_picture(figure, picture, facts)


def describe(facts: dict[str, Any]) -> str:
    """Say what was found, and what to write into the config."""
    end = "where the loss diverged" if facts["is_diverged"] else "without an end to be seen: raise --highest"
    base, factor = f"{facts['base_lr']:.1e}", facts["lr_factor"]
    scaled = f", which is multiplied by {factor:g} for this batch (TRAIN.LR_REFERENCE_BATCH)" if factor != 1 else ""
    return (
        f"{facts['optimizer']}, {facts['batch']} images an update: {len(facts['rates'])} updates at rates from "
        f"{facts['rates'][0]:.1e} to {facts['rates'][-1]:.1e}, {end}\n"
        f"the loss falls fastest at {facts['steepest']:.1e} and is lowest, {facts['lowest_loss']:.3f}, at "
        f"{facts['lowest']:.1e}; above that learning is undone\n"
        f"suggested peak: {facts['suggested']:.1e}, halfway between the two; the config's is "
        f"{facts['config_peak']:.1e}\n\n"
        f"TRAIN:\n  BASE_LR: {base}\n\nor --opts TRAIN.BASE_LR {base}{scaled}"
    )


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Config]:
    """Read the command line: the tool's own options, and the run's config."""
    parser = trial_parser("find_lr", (__doc__ or "").split("\n\n")[0])
    add, rate = parser.add_argument, number_type("learning rate above 0", lambda number: 0 < number <= 1e6)
    add("--updates", type=positive, default=200, metavar="N", help="of the whole test (default: 200)")
    add("--lowest", type=rate, default=1e-5, metavar="RATE", help="of the first update (default: 1e-5)")
    add("--highest", type=rate, default=10.0, metavar="RATE", help="where to end at the latest (default: 10)")
    add("--picture", type=Path, default=Path("find_lr.png"), metavar="FILE", help="PNG (default: find_lr.png)")
    options, cfg = parse_trial(parser, argv, opts=WITHOUT_BUDGET)
    if options.updates < 20:
        raise ConfigError(f"--updates {options.updates} is too few to see a curve; give at least 20.")
    if options.highest <= options.lowest:
        raise ConfigError(f"--highest {options.highest:g} has to be above --lowest {options.lowest:g}.")
    if options.picture.suffix != ".png":
        raise ConfigError(f"--picture {printable(str(options.picture))} has to end in .png.")
    require("matplotlib")
    return options, cfg


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options, cfg = parse(argv)
    dist = begin_trial(cfg)
    try:
        trainer = make_trial(cfg, dist)
        show_warnings(trainer)
        factor = find_lr_factor(cfg, trainer.total_batch)
        curve = sweep(trainer, options.updates, options.lowest, options.highest)
        if dist.is_main:
            report(curve, cfg, trainer.total_batch, factor, options.picture)
    finally:
        shutdown()
    return 0


def report(curve: Curve, cfg: Config, batch: int, factor: float, picture: Path) -> None:
    """Draw what was found, and say it.

    Raises:
        ConfigError: The loss did not fall by more than chance, or the picture cannot be written.
    """
    found, peak = suggest(curve), cfg.TRAIN.BASE_LR * factor
    facts = {
        "cfg": cfg.MODEL.NAME,
        "optimizer": cfg.TRAIN.OPTIMIZER.NAME,
        "batch": batch,
        "is_diverged": curve.is_diverged,
        "suggested": found.rate if found.is_sound else None,
        "base_lr": found.rate / factor if found.is_sound else None,
        "lr_factor": factor,
        "config_peak": peak,
        "steepest": found.steepest,
        "lowest": found.lowest,
        "lowest_loss": found.loss,
        "fall": found.fall,
        "standard_error": found.error,
        "rates": curve.rates.tolist(),
        "losses": curve.means.tolist(),
        "smoothed": curve.smoothed().tolist(),
        "samples": curve.samples.tolist(),
    }
    draw(curve, found, cfg, peak, picture, facts)
    where = f"{printable(str(picture))}, with its numbers in {printable(str(picture.with_suffix('.json')))}"
    if not found.is_sound:
        raise ConfigError(
            f"no rate is suggested: the loss fell by {found.fall:.3f} with a standard error of {found.error:.3f}, "
            f"which may be chance. Give more --updates, or a larger batch. The curve is in {where}."
        )
    print(describe(facts))
    print(where)


if __name__ == "__main__":
    sys.exit(main())
