"""The figures of a report: each function returns what puts one into an empty matplotlib figure."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.report.style import Draw, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

MAX_NUMBERED, MAX_NAMED, MAX_MATRIX = 20, 100, 1000  # classes whose confusions are shown by numbers, names, at all
_MAX_NAMED_BARS = 60
_TICKS = (0, 0.01, 0.1, 0.25, 0.5, 1)  # of the colours of a matrix

# Title, then (kind of row, key, label, factor) of each line.
_PANELS: tuple[tuple[str, tuple[tuple[str, str, str, float], ...]], ...] = (
    ("loss", (("train", "loss", "training", 1), ("eval", "loss", "evaluation", 1))),
    ("accuracy, %", (("eval", "acc1", "top-1", 1), ("eval", "acc5", "top-{k}", 1))),
    ("learning rate", (("train", "lr", "", 1),)),
    ("gradient norm", (("train", "grad_norm", "", 1),)),
    ("images a second", (("train", "images_per_sec", "", 1),)),
    ("waiting for data, % of the time", (("train", "data_wait", "", 100),)),
)


_LABEL_PANEL = (
    "several labels",
    (("eval", "mean_average_precision", "mAP", 1.0), ("eval", "macro_f1", "macro F1", 1.0)),
)


def curves(runs: Mapping[str, Sequence[Row]]) -> Draw:
    """Draw what metrics.jsonl holds of one run, or of several over each other."""
    epochs = {name: _images_an_epoch(rows) for name, rows in runs.items()}
    are_epochs = all(epochs.values())
    has_labels = any("threshold" in row for rows in runs.values() for row in rows)
    panels = (_PANELS[0], _LABEL_PANEL, *_PANELS[2:]) if has_labels else _PANELS

    def draw(figure: "Figure", theme: Theme) -> None:
        for axes, (title, series) in zip(figure.subplots(2, 3).flat, panels, strict=True):
            for number, (run, rows) in enumerate(runs.items()):
                scale = epochs[run] if are_epochs else None
                for line, (kind, key, label, factor) in enumerate(series):
                    colour = theme.colours[(number if len(runs) > 1 else line) % len(theme.colours)]
                    style = "--" if line and len(runs) > 1 else "-"
                    label = label.format(k=next((row["k"] for row in reversed(rows) if "k" in row), 5))
                    shown = " ".join(filter(None, (run if len(runs) > 1 else "", label)))
                    xs, ys = _points(rows, kind, key, factor, scale or 1)
                    marker = "." if len(xs) < 40 else ""
                    if xs:
                        label = shown.replace("$", r"\$")
                        axes.plot(xs, ys, color=colour, linestyle=style, marker=marker, label=label)
            axes.set_visible(bool(axes.lines))
            axes.set_title(title)
            axes.set_xlabel("epochs" if are_epochs else "images seen")
            axes.grid(True)
            if len(series) > 1 and len(runs) <= 6 and axes.lines:
                axes.legend(fontsize=7)

    return draw


def _images_an_epoch(rows: Sequence[Row]) -> float | None:
    """Evaluations come at the end of an epoch, so they tell its length; the last one may come before."""
    evaluated = (row for row in rows if row.get("kind") == "eval" and row.get("samples"))
    return max((row["samples"] / (row["epoch"] + 1) for row in evaluated), default=None)


def _points(rows: Sequence[Row], kind: str, key: str, factor: float, scale: float) -> tuple[list[float], list[float]]:
    """Positions and values of a curve; a value that was not finite, null in the file, is a gap."""
    found = [(row["samples"] / scale, row[key]) for row in rows if row["kind"] == kind and key in row]
    return [x for x, _ in found], [math.nan if y is None else y * factor for _, y in found]


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Draw:
    """Draw a confusion matrix (true, predicted) as fractions of each true class, however many classes there are.

    Up to 20 classes have counts in the cells, up to 100 names; more are put next to those that they are confused with,
    and only their confusions are drawn.
    """
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    def draw(figure: "Figure", theme: Theme) -> None:
        from matplotlib.ticker import PercentFormatter

        axes, count = figure.subplots(), len(matrix)
        if count > MAX_NAMED:
            order = _order_by_confusion(matrix)
            image: Any = _scatter_confusions(axes, fractions[np.ix_(order, order)], theme)
            axes.set_xlabel(f"predicted, {count} classes, those confused with each other side by side")
            axes.set_ylabel("true, in the same order")
        else:
            # A root makes rare confusions visible beside hits. Where there is none the paper stays.
            shown = np.ma.masked_equal(np.sqrt(fractions), 0)
            image = axes.imshow(shown, cmap=theme.colour_map, vmin=0, vmax=1, interpolation="nearest")
            size = 9 if count <= MAX_NUMBERED else max(4, 9 - count // 25)
            axes.set_xticks(range(count), names, rotation=90, fontsize=size, parse_math=False)
            axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
            axes.set_xlabel("predicted")
            axes.set_ylabel("true")
            if count <= MAX_NUMBERED:
                _write_counts(axes, matrix, image.to_rgba(shown))
        bar = figure.colorbar(image, ax=axes, shrink=0.6, format=PercentFormatter(1, decimals=0))
        if count <= MAX_NAMED:
            bar.set_ticks([math.sqrt(tick) for tick in _TICKS], labels=[f"{tick:.0%}" for tick in _TICKS])
        bar.set_label("of the images of a true class")

    return draw


def _order_by_confusion(matrix: np.ndarray) -> np.ndarray:
    """Return the classes in an order that puts those side by side that are taken for each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    off = matrix.astype(np.float64)
    np.fill_diagonal(off, 0)
    off /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    distances = 1 - np.minimum((off + off.T) / 2, 1)
    np.fill_diagonal(distances, 0)
    return leaves_list(linkage(squareform(distances, checks=False), "average"))


def _scatter_confusions(axes: "Axes", fractions: np.ndarray, theme: Theme) -> Any:
    """Draw dots, which stay visible where a cell is smaller than a pixel; the largest on top."""
    from matplotlib.colors import PowerNorm

    off = fractions.copy()
    np.fill_diagonal(off, 0)
    true, predicted = off.nonzero()
    values = off[true, predicted]
    order = values.argsort()
    axes.set_xlim(-0.5, len(off) - 0.5)
    axes.set_ylim(len(off) - 0.5, -0.5)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.plot([0, len(off)], [0, len(off)], color=theme.grid, linewidth=0.5)
    sizes = 1 + 1000 / len(off) + 40 * values[order]
    norm = PowerNorm(0.5, vmin=0)  # rare ones are to be seen too
    style: dict[str, Any] = {"cmap": theme.colour_map, "norm": norm, "linewidths": 0}
    return axes.scatter(predicted[order], true[order], c=values[order], s=sizes, **style)


def _write_counts(axes: "Axes", matrix: np.ndarray, colours: np.ndarray) -> None:
    size = 10 if len(matrix) <= 10 else 7
    luminance = colours[..., :3] @ (0.2126, 0.7152, 0.0722)
    for true, predicted in np.argwhere(matrix).tolist():
        ink = "black" if luminance[true, predicted] > 0.45 else "white"
        axes.text(predicted, true, str(matrix[true, predicted]), ha="center", va="center", color=ink, fontsize=size)


def reliability(bins: Sequence[Mapping[str, float]]) -> Draw:
    """Draw how often predictions are right against how sure they are, above how many there are of each."""

    def draw(figure: "Figure", theme: Theme) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        left = [found["lower"] for found in bins]
        width = [found["upper"] - found["lower"] for found in bins]
        bars = {"width": width, "align": "edge", "edgecolor": theme.paper}
        above.bar(left, [found["accuracy"] for found in bins], color=theme.colours[0], label="accuracy", **bars)
        above.plot([0, 1], [0, 1], "--", color=theme.ink, linewidth=1, label="perfectly calibrated")
        confidence = [found["confidence"] for found in bins]
        above.plot(confidence, [found["accuracy"] for found in bins], "o", color=theme.colours[1], label="mean score")
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="fraction that is right")
        above.legend(fontsize=8, loc="upper left")
        counts = below.bar(left, [found["count"] for found in bins], color=theme.colours[0], **bars)
        below.bar_label(counts, fontsize=6)
        below.margins(y=0.25)
        below.set(xlabel="score of the predicted class", ylabel="images")
        for axes in (above, below):
            axes.grid(True)

    return draw


def class_counts(counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> Draw:
    """Draw how many images each class has in each split; many classes are sorted by size and not named."""

    def draw(figure: "Figure", theme: Theme) -> None:
        axes = figure.subplots()
        is_named = len(names) <= _MAX_NAMED_BARS
        width = 0.8 / len(counts)
        for number, (split, values) in enumerate(counts.items()):
            style: dict[str, Any] = {"color": theme.colours[number], "label": split}
            if is_named:
                axes.bar(np.arange(len(values)) + (number - (len(counts) - 1) / 2) * width, values, width, **style)
            else:
                axes.stairs(sorted(values, reverse=True), fill=True, **style)
        if is_named:
            axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0, parse_math=False)
        else:
            axes.set_xlabel(f"{len(names)} classes, by size")
        axes.set_ylabel("images")
        axes.grid(True, axis="y")
        axes.legend()

    return draw
